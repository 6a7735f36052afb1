"""Guests whose connections the keep does TLS for: who is trusted, what is shown, who waits for whom."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunRequest
from keep_protocol.states import RunState
from tests.unit.app_loader.execution_harness import Execution, ending, guest
from tests.unit.app_loader.pki import Authority, Credential, self_signed
from tests.unit.app_loader.socket_harness import (
    PORT,
    MiB,
    client,
    configure,
    connecting,
    echo_server,
    echoes,
    listening,
    play,
    server_context,
    trusting,
)


@pytest.mark.parametrize("wanted", ["optional", "required"])
def test_client_certificates_are_checked_with_the_roots_that_are_named(tmp_path: Path, wanted: str) -> None:
    authority, stranger = Authority(), Authority("others")
    roots = authority.pem.decode()

    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls", tls={"client_certificates": wanted, "roots": roots}))
        run = await execution.runs.start(RunRequest(args=("blocking", "1" if wanted == "required" else "2")))

        async def is_served(credential: Credential | None) -> bool:
            try:
                async with client(execution, "tls", context=trusting(execution, credential, tmp_path)) as (
                    reader,
                    writer,
                ):
                    writer.write(b"?")
                    return await reader.read(1) == b"?"
            except (ConnectionError, ssl.SSLError):
                return False

        assert not await is_served(stranger.issue("spiffe://example.org/user/eve"))
        assert await is_served(None) is (wanted == "optional")
        assert await is_served(authority.issue("spiffe://example.org/user/bob"))
        assert ending(await execution.finished(run.id)).code == 0

    play(tmp_path, scenario)


def test_a_connection_by_tls_shows_the_keeps_certificate_a_secrets_or_none(tmp_path: Path) -> None:
    server, own = self_signed(names=("peer.test",)), self_signed()
    roots = server.certificate_pem

    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_lines"))
        execution.secrets.put("mine", bytearray(own.pem))
        execution.tls()
        assert execution.identity is not None
        trusted = execution.identity.certificate + own.certificate_pem
        async with echo_server(execution, server_context(server, tmp_path, trusted)) as shown:
            for identity in ({}, {"identity": "secret", "secret": "mine"}):
                await configure(execution, connecting("tls", name="stream", tls={"roots": roots, **identity}))
                assert ending(await execution.run(RunRequest(args=("connect",)))).code == 0
            assert shown == [ssl.PEM_cert_to_DER_cert(execution.identity.certificate), own.der]
        async with echo_server(execution, server_context(server, tmp_path)) as shown:
            await configure(execution, connecting("tls", name="stream", tls={"roots": roots, "identity": "none"}))
            assert ending(await execution.run(RunRequest(args=("connect",)))).code == 0
            assert shown == [None]

    play(tmp_path, scenario)


@pytest.mark.parametrize("wrong", ["roots", "name", "no-tls", "old-tls", "closed", "secret"])
def test_a_server_that_is_not_the_one_named_is_not_spoken_to(tmp_path: Path, wrong: str) -> None:
    server = self_signed(names=("other.test" if wrong == "name" else "peer.test",))
    roots = (self_signed() if wrong == "roots" else server).certificate_pem
    tls: dict[str, Any] = {"roots": roots}
    if wrong == "secret":
        tls |= {"identity": "secret", "secret": "missing"}

    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_lines"))
        await configure(execution, connecting("tls", name="stream", tls=tls))
        context = None if wrong == "no-tls" else server_context(server, tmp_path)
        if context is not None and wrong == "old-tls":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with echo_server(execution, context):
            if wrong == "closed":
                execution.network.peers["peer.test", PORT] = 1
            with pytest.raises(RefusalError) as refusal:
                await execution.runs.start(RunRequest(args=("connect",)))
        assert (refusal.value.code, refusal.value.field) == (ErrorCode.SOCKET_UNAVAILABLE, "$.files[3]")
        assert "connect to peer.test:7000" in refusal.value.detail
        assert execution.runs.list() == ()

    play(tmp_path, scenario)


def test_a_silent_client_of_tls_does_not_delay_others(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls"))
        run = await execution.runs.start(RunRequest())
        async with client(execution), client(execution, "tls") as (reader, writer):
            await echoes(reader, writer, b"served")
        assert ending(await execution.finished(run.id)).code == 0

    play(tmp_path, scenario)


def test_a_client_that_reads_nothing_holds_up_its_guest_and_not_the_keep(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls"))
        run = await execution.runs.start(RunRequest())
        context = trusting(execution)

        def floods() -> None:
            address = ("127.0.0.1", execution.network.bound[PORT])
            with (
                socket.create_connection(address, 5) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                connection.settimeout(1)
                connection.sendall(bytes(64 * MiB))

        # As much as all buffers on the way hold, and then no more.
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(floods)
        assert (await execution.runs.stop(run.id)).state is RunState.EXITED

    play(tmp_path, scenario)


@pytest.mark.parametrize("mode", ["blocking", "nonblocking"])
@pytest.mark.parametrize("farewell", [True, False])
def test_an_end_without_tls_farewell_is_an_error_for_the_guest(tmp_path: Path, mode: str, farewell: bool) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls"))
        run = await execution.runs.start(RunRequest(args=(mode,)))
        context = trusting(execution)

        def ends() -> None:
            address = ("127.0.0.1", execution.network.bound[PORT])
            with (
                socket.create_connection(address, 30) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                connection.sendall(b"half a message")
                assert connection.recv(64) == b"half a message"
                if farewell:
                    connection.unwrap().close()

        await asyncio.to_thread(ends)
        over = await execution.finished(run.id)
        assert ending(over).code == 0
        assert await execution.stderr(over) == (b"" if farewell else b"echo: Connection reset by peer\n")

    play(tmp_path, scenario)


@pytest.mark.parametrize("forged", [True, False])
def test_a_forged_record_and_a_forged_end_are_the_same_to_the_guest(tmp_path: Path, forged: bool) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls"))
        run = await execution.runs.start(RunRequest())
        context = trusting(execution)

        def cut() -> None:
            arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(arrived, leaving, server_hostname="localhost")
            with socket.create_connection(("127.0.0.1", execution.network.bound[PORT]), 30) as plain:
                while True:
                    try:
                        tls.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        plain.sendall(leaving.read())
                        arrived.write(plain.recv(65536))
                # A record that nobody has encrypted ends a connection as an end without farewell does.
                plain.sendall(leaving.read() + (b"\x17\x03\x03\x00\x20" + bytes(32) if forged else b""))
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(65536):
                    pass

        await asyncio.to_thread(cut)
        over = await execution.finished(run.id)
        assert await execution.stderr(over) == b"echo: Connection reset by peer\n"

    play(tmp_path, scenario)
