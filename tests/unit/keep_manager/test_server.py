"""Mutual TLS as served: refusals with alerts, changes of trust without a restart, slow and surplus connections."""

from __future__ import annotations

import logging
import socket
import ssl

import httpx
import pytest

from keep_manager.errors import AlreadyServedError
from keep_manager.issued import revoke
from keep_manager.listener import BoundedListener
from keep_manager.pki import PkiPaths, issue_server, key_of, load_authority, write_certificate
from keep_manager.protocol import HANDSHAKE_DEADLINE, ManagerProtocol
from keep_manager.server import home_lock
from keep_protocol.states import ManagerRole
from tests.unit.keep_manager.running import Client, Running, make_client, make_home, operator_of, tls_context


def connect(served: Running, context: ssl.SSLContext) -> ssl.SSLSocket:
    port = int(served.url.rpartition(":")[2])
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return context.wrap_socket(raw, server_hostname="127.0.0.1")
    except BaseException:
        raw.close()
        raise


def raw_connection(served: Running) -> socket.socket:
    """TCP alone; its patience ends before the server's for a handshake."""
    port = int(served.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_DEADLINE * 0.8)


def until_answered(client: httpx.Client) -> bool:
    """Whether a place for one more connection becomes free; the server learns of an end when its loop comes round."""
    for _ in range(200):
        try:
            return client.get("/v1/health").status_code == 200
        except httpx.TransportError:
            continue
    return False


def alert(served: Running, client: Client | None) -> str | None:
    """The alert that a client gets instead of an answer."""
    try:
        with connect(served, tls_context(served.home, client)) as connection:
            connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert connection.recv(1)
    except ssl.SSLError as error:
        return error.reason
    return None


def test_refused_clients_get_the_alert_and_the_log_has_the_reason(
    manager: Running, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = operator_of(make_home(manager.home.path / "other"))
    with caplog.at_level(logging.WARNING):
        assert alert(manager, None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert alert(manager, stranger) == "TLSV1_ALERT_UNKNOWN_CA"
    assert alert(manager, operator_of(manager.home)) is None
    refused = [record.getMessage() for record in caplog.records if record.name == "keep_manager.listener"]
    assert len(refused) == 2


def test_only_tls_1_3_is_spoken_and_sessions_are_not_resumed(manager: Running) -> None:
    old = tls_context(manager.home, operator_of(manager.home))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        connect(manager, old)
    with connect(manager, tls_context(manager.home, operator_of(manager.home))) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1)
        assert connection.version() == "TLSv1.3"
        assert connection.session is None or not connection.session.has_ticket


def test_plain_http_gets_no_answer(manager: Running) -> None:
    with socket.create_connection(("127.0.0.1", int(manager.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in connection.recv(4096)
    assert manager.client().get("/v1/health").status_code == 200


def test_a_revocation_is_in_force_without_a_restart_also_on_open_connections(manager: Running) -> None:
    alice = make_client(manager.home, "alice", (ManagerRole.TENANT,))
    client = manager.client(alice)
    assert client.get("/v1/keeps").status_code == 200
    revoke(PkiPaths(manager.home.pki), "alice")
    manager.wait_for(lambda: manager.manager.context.trust.revoked != frozenset())
    answer = client.get("/v1/keeps")  # the connection of before
    assert (answer.status_code, answer.json()["code"]) == (403, "certificate-revoked")
    assert alert(manager, alice) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
    assert alert(manager, operator_of(manager.home)) is None
    shared = manager.manager.context.lifecycle.shared_folder / "client-crl.pem"
    assert shared.read_bytes() == PkiPaths(manager.home.pki).client_crl.read_bytes()
    assert shared.stat().st_mode & 0o777 == 0o644


def server_serial(served: Running) -> str:
    with connect(served, tls_context(served.home, operator_of(served.home))) as connection:
        certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_new_server_certificate_is_used_without_a_restart(manager: Running) -> None:
    paths = PkiPaths(manager.home.pki)
    before = server_serial(manager)
    write_certificate(paths.server, *issue_server(load_authority(paths.server_ca), ["127.0.0.1"]))
    manager.loop.call_soon_threadsafe(manager.manager.reload_trust)
    assert server_serial(manager) != before


def test_a_key_that_does_not_fit_leaves_the_old_certificate_in_use(manager: Running) -> None:
    paths = PkiPaths(manager.home.pki)
    before = server_serial(manager)
    key_of(paths.server).write_bytes(key_of(paths.client_ca).read_bytes())
    manager.loop.call_soon_threadsafe(manager.manager.reload_trust)
    assert server_serial(manager) == before


def test_a_new_role_is_in_force_at_the_next_request(manager: Running) -> None:
    alice = make_client(manager.home, "alice")
    client = manager.client(alice)
    assert client.get("/v1/keeps").status_code == 403
    make_client(manager.home, "alice", (ManagerRole.AUDITOR,))
    assert client.get("/v1/keeps").status_code == 200


def read_to_end(connection: ssl.SSLSocket) -> bytes:
    """What comes until the server hangs up, however it does."""
    received = b""
    try:
        while chunk := connection.recv(4096):
            received += chunk
    except (ssl.SSLError, ConnectionError):
        pass
    return received


@pytest.mark.parametrize("sent", [b"", b"GET /v1/health HT", b"GET /v1/health HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_does_not_finish_its_request_is_hung_up_on(
    manager: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(ManagerProtocol, "head_deadline", 0.2)
    with connect(manager, tls_context(manager.home, operator_of(manager.home))) as connection:
        connection.sendall(sent)
        assert read_to_end(connection) == b""


def test_a_client_that_does_not_finish_its_body_is_told_so(manager: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keep_manager.app.BODY_DEADLINE", 0.2)
    with connect(manager, tls_context(manager.home, operator_of(manager.home))) as connection:
        head = b"POST /v1/keeps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head + b"{")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request-timeout" in answer


def test_connections_beyond_the_cap_are_closed_and_the_others_served(
    manager: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedListener, "max_connections", 2)
    clients = [manager.client(), manager.client()]
    for client in clients:
        assert client.get("/v1/health").status_code == 200
    with raw_connection(manager) as surplus:
        assert surplus.recv(1) == b""
    for client in clients:
        assert client.get("/v1/health").status_code == 200
        client.close()
    assert until_answered(manager.client())


def test_the_oldest_handshake_gives_way_so_that_strangers_keep_nobody_out(
    manager: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedListener, "max_connections", 2)
    with raw_connection(manager) as oldest, raw_connection(manager) as newer:
        assert manager.client().get("/v1/health").status_code == 200
        assert oldest.recv(1) == b""
        newer.settimeout(0.1)
        with pytest.raises(TimeoutError):
            newer.recv(1)


def test_a_refused_handshake_leaves_no_socket_open_on_our_side(manager: Running) -> None:
    with raw_connection(manager) as connection:
        connection.sendall(b"\x16\x03\x01\x00\x05nonsense")
        received = b""
        while piece := connection.recv(1024):
            received += piece
    # A TLS alert, and the end: the deadline of handshakes is 5 s, the socket's timeout less.
    assert received[:1] == b"\x15"


def test_strangers_cause_a_bounded_number_of_lines(manager: Running, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(40):
        with raw_connection(manager) as connection:
            connection.sendall(b"\x16\x03\x01\x00\x05nonsense")
            while connection.recv(1024):
                pass
    lines = [record.getMessage() for record in caplog.records if "TLS handshake with 127.0.0.1:" in record.getMessage()]
    assert 0 < len(lines) < 30


@pytest.mark.parametrize(
    "head",
    [
        b"HELLO\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/keeps HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_problem(manager: Running, head: bytes) -> None:
    with connect(manager, tls_context(manager.home, operator_of(manager.home))) as connection:
        connection.sendall(head)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad-request"' in answer


def test_a_home_is_served_once(manager: Running) -> None:
    expected = pytest.raises(AlreadyServedError, match="served already, by process")
    with home_lock(manager.home), expected, home_lock(manager.home):
        pass


def test_a_head_without_end_is_cut_off(manager: Running) -> None:
    context = tls_context(manager.home, operator_of(manager.home))
    with connect(manager, context) as connection, pytest.raises(OSError, match=r"EOF|reset|[Bb]roken"):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 64 * 1024 * 1024)
    assert manager.client().get("/v1/health").status_code == 200
