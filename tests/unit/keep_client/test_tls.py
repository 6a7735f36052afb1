"""Tests of `keep_client.tls`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from keep_client import (
    AsyncKeepClient,
    ConnectionBrokenError,
    ConnectionFailedError,
    Credentials,
    IdentityRefusedError,
    InvalidArgumentError,
    KeepClient,
    KeepClientError,
    KeepPin,
    KeyMismatchError,
    ManagerClient,
    PeerRefusedError,
)
from keep_client.tls import VerifyingContext, keep_context
from tests.unit.keep_client.certificates import Authority, Pair, keep_certificate, self_signed
from tests.unit.keep_client.servers import (
    ApiServer,
    RecordingServer,
    Reply,
    json_reply,
    server_context,
    serving,
)


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return self_signed().saved(tmp_path, "alice")


def _recording(pair: Pair, folder: Path) -> RecordingServer:
    return RecordingServer(server_context(pair, folder))


@pytest.mark.parametrize(
    ("shown", "pinned", "error", "words"),
    [
        (keep_certificate(), keep_certificate(), KeyMismatchError, "shows the key"),
        (
            expired := keep_certificate(begins=timedelta(days=-2), ends=timedelta(days=-1)),
            expired,
            PeerRefusedError,
            "valid from",
        ),
        (
            future := keep_certificate(begins=timedelta(days=1), ends=timedelta(days=2)),
            future,
            PeerRefusedError,
            "valid from",
        ),
    ],
    ids=["another key", "expired", "not yet valid"],
)
def test_not_one_request_byte_reaches_a_keep_that_is_refused(
    shown: Pair, pinned: Pair, error: type[KeepClientError], words: str, tmp_path: Path, credentials: Credentials
) -> None:
    server = _recording(shown, tmp_path)
    with serving(server):
        with (
            KeepClient.from_certificate(server.endpoint, pinned.certificate, credentials=credentials) as keep,
            pytest.raises(error, match=words),
        ):
            keep.load_workload(b"secret" * 1000)
        server.finished.acquire()

        async def load() -> None:
            client = AsyncKeepClient.from_certificate(server.endpoint, pinned.certificate, credentials=credentials)
            async with client as keep:
                with pytest.raises(error, match=words):
                    await keep.load_workload(b"secret" * 1000)

        asyncio.run(load())
        server.finished.acquire()
    assert server.recorded == b""


def test_eight_concurrent_requests_are_all_refused_without_a_byte(tmp_path: Path, credentials: Credentials) -> None:
    server = _recording(keep_certificate(), tmp_path)

    async def ask_often() -> list[BaseException | object]:
        certificate = keep_certificate().certificate
        async with AsyncKeepClient.from_certificate(server.endpoint, certificate, credentials=credentials) as keep:
            return list(await asyncio.gather(*(keep.status() for _ in range(8)), return_exceptions=True))

    with serving(server):
        results = asyncio.run(ask_often())
        for _ in results:
            server.finished.acquire()
    assert all(isinstance(result, KeyMismatchError) for result in results)
    assert server.recorded == b""


def test_a_keep_sees_the_certificate_of_its_client(tmp_path: Path) -> None:
    alice = self_signed()
    pair = keep_certificate()
    server = ApiServer(server_context(pair, tmp_path, client_ca=alice.certificate), lambda _: json_reply({}))
    credentials = alice.saved(tmp_path, "alice")
    with (
        serving(server),
        KeepClient.from_certificate(server.endpoint, pair.certificate, credentials=credentials) as keep,
    ):
        keep.openapi()
    assert server.received[0].identity == ssl.PEM_cert_to_DER_cert(alice.certificate)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_client_that_the_keep_refuses_is_told_so(
    asynchronous: bool, tmp_path: Path, credentials: Credentials
) -> None:
    pair = keep_certificate()
    context = server_context(pair, tmp_path, client_ca=Authority().certificate)
    server = ApiServer(context, lambda _: json_reply({}))

    async def ask() -> None:
        async with AsyncKeepClient.from_certificate(server.endpoint, pair.certificate, credentials=credentials) as keep:
            await keep.openapi()

    def ask_sync() -> None:
        with KeepClient.from_certificate(server.endpoint, pair.certificate, credentials=credentials) as keep:
            keep.openapi()

    # A server that closes with a request unread resets the connection, and then asyncio may drop the alert before it.
    refusals = (IdentityRefusedError, ConnectionBrokenError) if asynchronous else IdentityRefusedError
    with serving(server), pytest.raises(refusals):
        asyncio.run(ask()) if asynchronous else ask_sync()
    assert server.received == []


def test_a_resumed_session_is_refused_because_it_proves_nothing_afresh(
    tmp_path: Path, credentials: Credentials
) -> None:
    pair = keep_certificate()
    # Tickets are on here, unlike in a keep.
    server = ApiServer(server_context(pair, tmp_path), lambda _: Reply())
    context = keep_context(KeepPin.from_certificate(pair.certificate), credentials)

    def connect(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with (
            socket.create_connection(("127.0.0.1", server.server_port)) as plain,
            context.wrap_socket(plain, session=session) as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass
            assert not connection.session_reused
            return connection.session

    with serving(server):
        session = connect(None)
        refusal = None
        try:
            connect(session)
        except ssl.SSLCertVerificationError as error:
            refusal = error
    if refusal is None:
        pytest.skip("this OpenSSL makes a whole handshake of it, so there is nothing to refuse")
    assert "no certificate in this handshake" in str(refusal)


def test_a_peer_below_tls_1_3_is_refused(tmp_path: Path, credentials: Credentials) -> None:
    pair = keep_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    pair.saved(tmp_path, "server").load_into(context)
    server = RecordingServer(context)
    with (
        serving(server),
        KeepClient.from_certificate(server.endpoint, pair.certificate, credentials=credentials) as keep,
        pytest.raises(ConnectionFailedError),
    ):
        keep.status()
    assert server.recorded == b""


def test_a_context_without_a_check_refuses_everybody(tmp_path: Path) -> None:
    server = _recording(keep_certificate(), tmp_path)
    context = VerifyingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        serving(server),
        socket.create_connection(("127.0.0.1", server.server_address[1])) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="no check was set"),
    ):
        context.wrap_socket(plain)


def test_a_manager_whose_certificate_another_ca_signed_is_refused(tmp_path: Path, credentials: Credentials) -> None:
    server = _recording(Authority().server(), tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_text(Authority().certificate)
    with (
        serving(server),
        ManagerClient(f"https://{server.endpoint}", ca=ca, credentials=credentials) as manager,
        pytest.raises(PeerRefusedError, match="certificate of the manager"),
    ):
        manager.health()
    assert server.recorded == b""


def test_a_manager_at_a_name_that_is_not_in_its_certificate_is_refused(
    tmp_path: Path, credentials: Credentials
) -> None:
    try:
        socket.getaddrinfo("localhost", 0)
    except OSError:
        pytest.skip("`localhost` does not resolve on this machine")
    authority = Authority()
    server = _recording(authority.server(), tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.certificate)
    with (
        serving(server),
        ManagerClient(f"https://localhost:{server.server_address[1]}", ca=ca, credentials=credentials) as manager,
        pytest.raises(PeerRefusedError, match="localhost"),
    ):
        manager.health()
    assert server.recorded == b""


def test_environment_proxies_are_not_used(
    tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = keep_certificate()
    server = ApiServer(server_context(pair, tmp_path), lambda _: json_reply({}))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with (
        serving(server),
        KeepClient.from_certificate(server.endpoint, pair.certificate, credentials=credentials) as keep,
    ):
        assert keep.openapi() == {}


def test_a_key_that_does_not_belong_to_the_certificate_is_named(tmp_path: Path) -> None:
    alice, bob = self_signed().saved(tmp_path, "alice"), self_signed().saved(tmp_path, "bob")
    mixed = Credentials(alice.certificate, bob.key)
    with pytest.raises(InvalidArgumentError, match=r"alice\.pem and the key .*bob\.key"):
        KeepClient.from_certificate("127.0.0.1:1", keep_certificate().certificate, credentials=mixed)


def test_missing_credentials_are_named(tmp_path: Path) -> None:
    missing = Credentials(tmp_path / "a.pem", tmp_path / "a.key")
    with pytest.raises(InvalidArgumentError, match=r"a\.pem does not exist"):
        KeepClient.from_certificate("127.0.0.1:1", keep_certificate().certificate, credentials=missing)
