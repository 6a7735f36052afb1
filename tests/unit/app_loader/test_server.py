"""Handshakes as clients see them, and clients that are slow, many or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from app_loader.deadlines import Deadlines
from app_loader.messages import Request, Response
from keep_protocol.spec import Principal
from keep_protocol.states import CrlPolicy
from tests.unit.app_loader.pki import DAY, MINUTE, Authority, Credential, now, self_signed
from tests.unit.app_loader.serving import PATIENCE, Serving, until_closed

ALICE = "spiffe://example.org/user/alice"
BOB = "spiffe://example.org/user/bob"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def alice(authority: Authority) -> Credential:
    return authority.issue(ALICE)


async def greet(request: Request) -> Response:
    """An application that answers everything, after it has read the body."""
    body = await request.read(1024)
    return Response(HTTPStatus.OK, f"{request.method} by {request.client.name}: ".encode() + body)


def serving(folder: Path, *principals: Principal, **settings: float) -> Serving:
    return Serving(folder, principals, greet, **settings)  # type: ignore[arg-type]


def with_lists(authority: Authority) -> Principal:
    return authority.names(ALICE, crl=CrlPolicy.REQUIRED)


class TestHandshake:
    def test_a_principal_is_served_over_tls_1_3_without_tickets(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            wire = keep.connect(alice)
            assert wire.ask("GET", "/").body == f"GET by {ALICE}: ".encode()
            assert wire.socket.version() == "TLSv1.3"
            assert wire.socket.selected_alpn_protocol() == "http/1.1"
            assert wire.socket.session is None or not wire.socket.session.has_ticket

    def test_a_client_without_a_certificate_gets_the_alert_for_that(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            assert keep.refusal(None) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"

    def test_a_client_of_another_ca_is_refused(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            assert keep.refusal(Authority().issue(ALICE)) == "TLSV1_ALERT_UNKNOWN_CA"

    def test_a_ca_of_the_same_name_is_another_ca(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            assert keep.refusal(Authority("clients").issue(ALICE))

    def test_an_expired_client_is_refused(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            expired = authority.issue(ALICE, not_after=now() - MINUTE)
            assert keep.refusal(expired) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"

    def test_a_client_that_is_not_valid_yet_is_refused(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            assert keep.refusal(authority.issue(ALICE, not_before=now() + MINUTE))

    def test_a_servers_certificate_is_no_clients_certificate(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            assert keep.refusal(authority.issue(ALICE, purpose=ExtendedKeyUsageOID.SERVER_AUTH))

    @pytest.mark.parametrize("strict", [True, False], ids=["strict", "as-openssl-makes-them"])
    @pytest.mark.parametrize("purpose", [None, ExtendedKeyUsageOID.CLIENT_AUTH], ids=["no-purpose", "client"])
    def test_a_pinned_certificate_is_served(self, tmp_path: Path, strict: bool, purpose: None) -> None:
        pinned = self_signed(purpose=purpose, strict=strict, authority=not strict)
        with serving(tmp_path, pinned.pinned()) as keep:
            assert keep.connect(pinned).ask("GET", "/").status == HTTPStatus.OK

    def test_a_pinned_certificate_beside_a_ca_is_served(self, tmp_path: Path, authority: Authority) -> None:
        pinned = self_signed()
        with serving(tmp_path, with_lists(authority), pinned.pinned()) as keep:
            assert keep.connect(pinned).ask("GET", "/").body.startswith(b"GET by sha256:")

    def test_a_certificate_of_a_ca_can_be_pinned_without_trusting_that_ca(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, alice.pinned()) as keep:
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK
            assert keep.refusal(authority.issue(BOB)) == "TLSV1_ALERT_UNKNOWN_CA"

    def test_another_self_signed_certificate_of_the_same_name_is_refused(self, tmp_path: Path) -> None:
        with serving(tmp_path, self_signed().pinned()) as keep:
            assert keep.refusal(self_signed())

    def test_an_expired_pinned_certificate_is_refused(self, tmp_path: Path) -> None:
        pinned = self_signed(not_after=now() - MINUTE)
        with serving(tmp_path, pinned.pinned()) as keep:
            assert keep.refusal(pinned) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"

    def test_the_right_ca_but_no_principal_is_answered_once_and_closed(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            wire = keep.connect(authority.issue(BOB))
            answer = wire.ask("GET", "/v1/status")
            assert (answer.status, answer.problem.code) == (403, "identity-invalid")
            assert wire.rest() == b""

    def test_tls_1_2_is_refused(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep, contextlib.closing(keep.tcp()) as connection:
            context = keep.context(alice)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError) as refusal:
                context.wrap_socket(connection, server_hostname="localhost")
        assert refusal.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"

    def test_plain_http_is_closed_without_an_answer(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            connection = keep.tcp()
            connection.sendall(b"GET /v1/status HTTP/1.1\r\nhost: keep\r\n\r\n")
            assert b"HTTP/" not in until_closed(connection)

    def test_the_log_names_peer_and_reason(
        self, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            keep.refusal(Authority().issue(ALICE))
        (record,) = (record for record in caplog.records if record.name == "app_loader.server")
        assert "TLS handshake with 127.0.0.1:" in record.message
        assert "unable to get local issuer certificate" in record.message

    def test_strangers_cannot_flood_the_log(
        self, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "app_loader")
        with serving(tmp_path, authority.names(ALICE)) as keep:
            for _ in range(40):
                connection = keep.tcp()
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                until_closed(connection)
        assert 10 <= len(caplog.records) < 30


class TestRevocationInTheHandshake:
    def test_a_client_that_is_not_revoked_is_served(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            keep.crl.write_bytes(authority.revocations())
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK

    def test_a_revoked_client_is_refused_in_the_handshake(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            keep.crl.write_bytes(authority.revocations([alice]))
            assert keep.refusal(alice) == "SSLV3_ALERT_CERTIFICATE_REVOKED"

    def test_another_list_counts_from_the_next_handshake_on(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            keep.crl.write_bytes(authority.revocations())
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK
            keep.crl.write_bytes(authority.revocations([alice]))
            assert keep.refusal(alice) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            keep.crl.write_bytes(authority.revocations())
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK

    def test_without_a_list_nobody_gets_in(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            assert keep.refusal(alice)

    def test_an_expired_list_lets_nobody_in(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            keep.crl.write_bytes(authority.revocations(issued=now() - DAY, next_update=now() - MINUTE))
            assert keep.refusal(alice)

    def test_a_forged_list_lets_nobody_in(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        with serving(tmp_path, with_lists(authority)) as keep:
            keep.crl.write_bytes(authority.revocations(forger=Authority()))
            assert keep.refusal(alice)

    def test_lists_of_several_cas_are_told_apart(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        other = Authority("others")
        bob = other.issue(BOB)
        with serving(tmp_path, with_lists(authority), other.names(BOB, crl=CrlPolicy.REQUIRED)) as keep:
            keep.crl.write_bytes(authority.revocations([alice]) + other.revocations())
            assert keep.refusal(alice) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            assert keep.connect(bob).ask("GET", "/").status == HTTPStatus.OK


class TestRenewal:
    def test_new_handshakes_get_the_renewed_certificate_and_open_connections_live_on(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, authority.names(ALICE)) as keep:
            before = keep.connect(alice)
            keep.loop.call_soon_threadsafe(keep.identity.renew)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), keep.loop).result(PATIENCE)
            after = keep.connect(alice)
            assert after.ask("GET", "/").status == before.ask("GET", "/").status == HTTPStatus.OK
            assert after.socket.getpeercert(True) != before.socket.getpeercert(True)


class TestSlowAndManyClients:
    def test_a_client_that_never_shakes_hands_is_closed(self, tmp_path: Path, authority: Authority) -> None:
        with serving(tmp_path, authority.names(ALICE), handshake_seconds=0.1) as keep:
            assert until_closed(keep.tcp()) == b""

    def test_a_client_that_drips_its_request_head_is_closed(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        deadlines = Deadlines(head=0.2)
        with Serving(tmp_path, [authority.names(ALICE)], greet, deadlines=deadlines) as keep:
            wire = keep.connect(alice)
            wire.send(b"GET / HTTP/1.1\r\nhost: ke")
            assert _ends(wire.socket)

    def test_a_client_that_says_nothing_is_closed(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with Serving(tmp_path, [authority.names(ALICE)], greet, deadlines=Deadlines(head=0.1)) as keep:
            assert _ends(keep.connect(alice).socket)

    def test_an_idle_connection_is_closed_after_its_time(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with Serving(tmp_path, [authority.names(ALICE)], greet, deadlines=Deadlines(idle=0.1)) as keep:
            wire = keep.connect(alice)
            assert wire.ask("GET", "/").status == HTTPStatus.OK
            assert _ends(wire.socket)

    def test_connections_beyond_the_cap_are_closed_and_the_others_served(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with serving(tmp_path, authority.names(ALICE), max_connections=2) as keep:
            first, second = keep.connect(alice), keep.connect(alice)
            assert first.ask("GET", "/").status == second.ask("GET", "/").status == HTTPStatus.OK
            assert until_closed(keep.tcp()) == b""
            assert first.ask("GET", "/").status == HTTPStatus.OK

    def test_the_oldest_handshake_gives_way_so_that_strangers_keep_no_principal_out(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        with (
            serving(tmp_path, authority.names(ALICE), max_connections=2) as keep,
            keep.tcp() as oldest,
            keep.tcp() as newer,
        ):
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK
            assert until_closed(oldest) == b""
            newer.settimeout(0.1)
            with pytest.raises(TimeoutError):
                newer.recv(1)

    def test_a_client_that_leaves_makes_room(self, tmp_path: Path, authority: Authority, alice: Credential) -> None:
        with serving(tmp_path, authority.names(ALICE), max_connections=1) as keep:
            for _ in range(3):
                wire = keep.connect(alice)
                assert wire.ask("GET", "/", connection="close").status == HTTPStatus.OK
                assert wire.rest() == b""
                wire.close()
                keep.wait_until_empty()

    def test_connections_are_refused_only_while_descriptors_are_out(
        self, tmp_path: Path, authority: Authority, alice: Credential, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def accept(_: socket.socket) -> tuple[socket.socket, object]:
            monkeypatch.undo()
            raise OSError(24, "Too many open files")

        with serving(tmp_path, authority.names(ALICE)) as keep:
            monkeypatch.setattr(socket.socket, "accept", accept)
            assert keep.connect(alice).ask("GET", "/").status == HTTPStatus.OK


class TestStopping:
    def test_a_response_under_way_is_finished_and_idle_clients_are_closed(
        self, tmp_path: Path, authority: Authority, alice: Credential
    ) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> Response:
            if request.segments == (b"slow",):
                begun.set()
                await go_on.wait()
            return Response(HTTPStatus.OK, b"done")

        with Serving(tmp_path, [authority.names(ALICE)], slow) as keep:
            idle, busy = keep.connect(alice), keep.connect(alice)
            assert idle.ask("GET", "/").status == HTTPStatus.OK
            busy.send(b"GET /slow HTTP/1.1\r\nhost: keep\r\n\r\n")

            async def stop() -> None:
                await begun.wait()
                keep.server.stop_accepting()
                go_on.set()
                await keep.server.drain(PATIENCE)

            asyncio.run_coroutine_threadsafe(stop(), keep.loop).result(PATIENCE)
            answer = busy.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            assert idle.rest() == busy.rest() == b""


def _ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except (ConnectionResetError, ssl.SSLEOFError):
        return True


def _wait_until_empty(keep: Serving) -> None:
    async def empty() -> None:
        while keep.server._connections:
            await asyncio.wait([connection.lost for connection in keep.server._connections])

    asyncio.run_coroutine_threadsafe(empty(), keep.loop).result(PATIENCE)
