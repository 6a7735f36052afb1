"""Connections to keeps that prove themselves: a challenge on each, before anything else, in every life of the keep."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

import keep_client.channel
from keep_attestation.ratls.peer import ExpectedKeep, PeerVerdict
from keep_attestation.verdict import Freshness
from keep_client import AsyncKeepClient, Credentials, KeepClient
from keep_client.attested_peer import AttestedPeer
from keep_client.attested_streams import AttestedConnections
from keep_client.errors import (
    ConnectionBrokenError,
    ConnectionFailedError,
    EvidenceRefusedError,
    IdentityRefusedError,
    ProblemError,
    ProtocolError,
)
from keep_protocol.errors import ErrorCode
from keep_protocol.states import FileArea
from tests.unit.app_loader.attesting import AttestedServing, attested_spec
from tests.unit.app_loader.pki import Credential, self_signed
from tests.unit.keep_client.attested_keeps import (
    Ask,
    Challenge,
    Proof,
    ScriptedKeep,
    ask_async,
    ask_sync,
    development_policy,
    ok,
    peer_for,
)

CHALLENGE, STATUS = ("POST", "/v1/attestation"), ("GET", "/v1/status")

both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@pytest.fixture
def alice() -> Credential:
    return self_signed()


@pytest.fixture
def credentials(tmp_path: Path, alice: Credential) -> Credentials:
    return Credentials(alice.write(tmp_path), alice.write(tmp_path))


@pytest.fixture
def keep(tmp_path: Path, alice: Credential) -> Iterator[AttestedServing]:
    with AttestedServing(tmp_path, [alice.pinned()]) as serving:
        yield serving


def asked(keep: AttestedServing) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in keep.asked]


Session = Callable[[str, AttestedPeer, Credentials, Callable[[], None]], None]
"""Asks for the status twice over one client, and does something in between."""


def ask_twice_sync(endpoint: str, peer: AttestedPeer, credentials: Credentials, between: Callable[[], None]) -> None:
    with KeepClient(endpoint, peer, credentials=credentials) as keep:
        keep.status()
        between()
        keep.status()


def ask_twice_async(endpoint: str, peer: AttestedPeer, credentials: Credentials, between: Callable[[], None]) -> None:
    async def ask() -> None:
        async with AsyncKeepClient(endpoint, peer, credentials=credentials) as keep:
            await keep.status()
            await asyncio.to_thread(between)
            await keep.status()

    asyncio.run(ask())


both_twice = pytest.mark.parametrize("ask_twice", [ask_twice_sync, ask_twice_async], ids=["sync", "async"])


class TestAccepted:
    @both
    def test_a_keep_that_proves_itself_is_spoken_to(
        self, ask: Ask, keep: AttestedServing, credentials: Credentials
    ) -> None:
        assert ask(keep.endpoint, peer_for(keep.spec), credentials).spec_digest == keep.spec_sha256.hex()
        assert asked(keep) == [CHALLENGE, STATUS]

    @both_twice
    def test_a_connection_is_used_again_without_another_challenge(
        self, ask_twice: Session, keep: AttestedServing, credentials: Credentials
    ) -> None:
        ask_twice(keep.endpoint, peer_for(keep.spec), credentials, lambda: None)
        assert asked(keep) == [CHALLENGE, STATUS, STATUS]
        assert {request.connection for request in keep.asked} == {0}

    @both_twice
    def test_a_new_connection_is_challenged_again(
        self, ask_twice: Session, keep: AttestedServing, credentials: Credentials
    ) -> None:
        ask_twice(keep.endpoint, peer_for(keep.spec), credentials, keep.hang_up)
        assert asked(keep) == [CHALLENGE, STATUS, CHALLENGE, STATUS]
        assert [request.connection for request in keep.asked] == [0, 0, 1, 1]

    def test_connections_that_are_opened_at_once_are_each_challenged(
        self, keep: AttestedServing, credentials: Credentials
    ) -> None:
        with (
            KeepClient(keep.endpoint, peer_for(keep.spec), credentials=credentials) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            for status in [pool.submit(client.status) for _ in range(16)]:
                assert status.result().id == keep.keep_id
        first: dict[int, tuple[str, str]] = {}
        for request in keep.asked:
            first.setdefault(request.connection, (request.method, request.path))
        assert set(first.values()) == {CHALLENGE}
        assert asked(keep).count(CHALLENGE) == len(first)

    @both
    def test_a_keep_is_accepted_for_the_workload_that_it_has_loaded(
        self, ask: Ask, keep: AttestedServing, credentials: Credentials
    ) -> None:
        keep.loaded(b"w" * 32)
        peer = peer_for(keep.spec, workload=b"w" * 32)
        assert ask(keep.endpoint, peer, credentials).workload.digest == (b"w" * 32).hex()

    def test_a_problem_of_the_keep_is_told_as_over_any_connection(
        self, keep: AttestedServing, credentials: Credentials
    ) -> None:
        with (
            KeepClient(keep.endpoint, peer_for(keep.spec), credentials=credentials) as client,
            pytest.raises(ProblemError) as caught,
        ):
            client.list_files(FileArea.INPUT, "missing")
        assert caught.value.code == ErrorCode.FILE_NOT_FOUND

    def test_large_bodies_go_both_ways(self, keep: AttestedServing, credentials: Credentials) -> None:
        content = bytes(range(256)) * 4000
        with KeepClient(keep.endpoint, peer_for(keep.spec), credentials=credentials) as client:
            client.put_file(FileArea.INPUT, "a", content)
            assert b"".join(client.read_file(FileArea.INPUT, "a")) == content

    def test_verdicts_of_both_phases_are_handed_to_whoever_observes(
        self, keep: AttestedServing, credentials: Credentials
    ) -> None:
        verdicts: list[PeerVerdict] = []
        expected = ExpectedKeep(keep=keep.keep_id, spec_sha256=keep.spec_sha256)
        ask_sync(keep.endpoint, AttestedPeer(development_policy(), expected, observe=verdicts.append), credentials)
        assert [(one.accepted, one.verdict.freshness) for one in verdicts] == [
            (True, Freshness.KEY),
            (True, Freshness.CONNECTION),
        ]

    def test_a_keep_that_says_another_spec_than_it_has_proven_is_not_verified(
        self, keep: AttestedServing, credentials: Credentials
    ) -> None:
        keep.keep.spec_digest = "0" * 64
        with (
            KeepClient(keep.endpoint, peer_for(keep.spec), credentials=credentials) as client,
            pytest.raises(ProtocolError, match="says its spec is"),
        ):
            client.verify()


class TestRestart:
    @both_twice
    def test_a_restarted_keep_with_another_key_is_verified_anew(
        self, ask_twice: Session, tmp_path: Path, alice: Credential, credentials: Credentials
    ) -> None:
        spec = attested_spec([alice.pinned()])
        with ExitStack() as second_life, ExitStack() as first_life:
            first = first_life.enter_context(AttestedServing(tmp_path, [alice.pinned()], spec=spec))
            second = AttestedServing(tmp_path, [alice.pinned()], spec=spec, port=first.address[1])

            def restart() -> None:
                first_life.close()
                second_life.enter_context(second)

            ask_twice(first.endpoint, peer_for(spec), credentials, restart)
        assert first.identity.spki != second.identity.spki
        assert asked(first) == asked(second) == [CHALLENGE, STATUS]

    @both_twice
    def test_what_comes_back_with_another_spec_is_refused(
        self, ask_twice: Session, tmp_path: Path, alice: Credential, credentials: Credentials
    ) -> None:
        with ExitStack() as second_life, ExitStack() as first_life:
            first = first_life.enter_context(AttestedServing(tmp_path, [alice.pinned()]))
            second = AttestedServing(tmp_path, [alice.pinned()], port=first.address[1])

            def restart() -> None:
                first_life.close()
                second_life.enter_context(second)

            with pytest.raises(EvidenceRefusedError, match=r"ratls\.spec"):
                ask_twice(first.endpoint, peer_for(first.spec), credentials, restart)
        assert second.asked == []


class TestFailures:
    @contextmanager
    def greeting(self, farewell: Callable[[socket.socket], None]) -> Iterator[str]:
        """A server that ends every connection in this way once it has been greeted."""
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    farewell(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

    @both
    def test_a_reset_in_the_handshake_is_a_failed_connection_and_not_a_broken_one(
        self, ask: Ask, credentials: Credentials
    ) -> None:
        def reset(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        with self.greeting(reset) as endpoint, pytest.raises(ConnectionFailedError) as caught:
            ask(endpoint, peer_for(attested_spec([self_signed().pinned()])), credentials)
        assert type(caught.value) is ConnectionFailedError
        assert str(caught.value).startswith(f"the keep at {endpoint} cannot be reached: ")

    @both
    def test_an_end_in_the_handshake_says_that_the_connection_was_cut_off(
        self, ask: Ask, credentials: Credentials
    ) -> None:
        with self.greeting(lambda _: None) as endpoint, pytest.raises(ConnectionFailedError) as caught:
            ask(endpoint, peer_for(attested_spec([self_signed().pinned()])), credentials)
        assert type(caught.value) is ConnectionFailedError
        assert "the connection was cut off" in str(caught.value)

    @both
    def test_a_server_that_speaks_no_tls_is_a_failed_connection(self, ask: Ask, credentials: Credentials) -> None:
        def speak(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with self.greeting(speak) as endpoint, pytest.raises(ConnectionFailedError) as caught:
            ask(endpoint, peer_for(attested_spec([self_signed().pinned()])), credentials)
        assert type(caught.value) is ConnectionFailedError

    @both
    def test_an_endpoint_where_nobody_listens_is_a_failed_connection(self, ask: Ask, credentials: Credentials) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(ConnectionFailedError, match="cannot be reached"):
            ask(f"127.0.0.1:{port}", peer_for(attested_spec([self_signed().pinned()])), credentials)

    @both
    def test_a_server_that_says_nothing_in_the_handshake_is_given_up(
        self, ask: Ask, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keep_client.channel, "CONNECT_TIMEOUT", 0.2)
        left = threading.Event()

        def wait(connection: socket.socket) -> None:
            assert connection.recv(1) == b""
            left.set()

        with self.greeting(wait) as endpoint:
            with pytest.raises(ConnectionFailedError, match="does not answer in time"):
                ask(endpoint, peer_for(attested_spec([self_signed().pinned()])), credentials)
            assert left.wait(20), "the client has closed its connection"

    @both
    def test_a_server_that_sends_a_byte_now_and_then_is_given_up_as_soon(
        self, ask: Ask, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keep_client.channel, "CONNECT_TIMEOUT", 0.4)

        def drip(connection: socket.socket) -> None:
            # A record of TLS that never gets whole; each byte comes well before a deadline of its own.
            connection.settimeout(0.05)
            with suppress(ConnectionError):
                for byte in b"\x16\x03\x03\x40\x00" + bytes(60):
                    connection.sendall(bytes([byte]))
                    with suppress(TimeoutError):
                        connection.recv(1)

        with (
            self.greeting(drip) as endpoint,
            pytest.raises(ConnectionFailedError, match="does not answer in time"),
        ):
            ask(endpoint, peer_for(attested_spec([self_signed().pinned()])), credentials)

    @both
    def test_a_client_whose_certificate_the_keep_refuses_is_told_so(
        self, ask: Ask, keep: AttestedServing, tmp_path: Path
    ) -> None:
        stranger = self_signed().write(tmp_path)
        with pytest.raises(IdentityRefusedError, match="refused our certificate"):
            ask(keep.endpoint, peer_for(keep.spec), Credentials(stranger, stranger))
        assert keep.asked == []

    @both
    def test_a_connection_that_is_cut_off_after_acceptance_is_broken(self, ask: Ask, credentials: Credentials) -> None:
        proof = Proof()

        def answer(challenge: Challenge) -> bytes:
            return ok(proof.collection(challenge))

        class CutOff(ScriptedKeep):
            def _respond(self) -> bytes:
                raise OSError("cut off")

        with CutOff(proof.identity, answer) as keep:
            with pytest.raises(ConnectionBrokenError):
                ask(keep.endpoint, peer_for(proof.spec), credentials)
            assert len(keep.finished()) == 2, "what may be repeated is, once, over a connection that is proven anew"

    def test_a_cancelled_connection_is_closed(self, credentials: Credentials) -> None:
        begun, left = threading.Event(), threading.Event()

        def wait(connection: socket.socket) -> None:
            begun.set()
            assert connection.recv(1) == b""
            left.set()

        async def cancel(endpoint: str) -> None:
            peer = peer_for(attested_spec([self_signed().pinned()]))
            async with AsyncKeepClient(endpoint, peer, credentials=credentials) as keep:
                asking = asyncio.create_task(keep.status())
                assert await asyncio.to_thread(begun.wait, 20)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                assert await asyncio.to_thread(left.wait, 20), "the client has closed its connection"

        with self.greeting(wait) as endpoint:
            asyncio.run(cancel(endpoint))

    def test_a_keep_is_never_spoken_to_in_plain_text(self, keep: AttestedServing, credentials: Credentials) -> None:
        connections = AttestedConnections(peer_for(keep.spec), credentials)
        with (
            httpx.Client(transport=connections.transport()) as plain,
            pytest.raises(httpx.UnsupportedProtocol, match="never spoken to in plain text"),
        ):
            plain.get(f"http://{keep.endpoint}/v1/status")

        async def ask() -> None:
            async with httpx.AsyncClient(transport=connections.async_transport()) as client:
                with pytest.raises(httpx.UnsupportedProtocol, match="never spoken to in plain text"):
                    await client.get(f"http://{keep.endpoint}/v1/status")

        asyncio.run(ask())
        assert keep.asked == []


@both
def test_a_refusal_leaves_no_connection_behind(ask: Ask, keep: AttestedServing, credentials: Credentials) -> None:
    peer = peer_for(keep.spec, keep="fedcba9876543210")
    for _ in range(3):
        with pytest.raises(EvidenceRefusedError):
            ask(keep.endpoint, peer, credentials)
    keep.wait_until_empty()
    assert keep.asked == []
