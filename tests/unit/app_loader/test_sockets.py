"""Guests with sockets: real modules, real connections, in the processes of a keep."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app_loader.run_sockets import MAX_UNACCEPTED
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunRequest, Stdin
from keep_protocol.states import ExitReason, RunState, WorkloadKind
from keep_protocol.workload_configuration import WorkloadConfiguration
from tests.unit.app_loader.execution_harness import REPOSITORY, Execution, ending, execute, guest, refused, wat
from tests.unit.app_loader.socket_harness import (
    MODES,
    PORT,
    STREAMS,
    client,
    configure,
    connecting,
    echo_server,
    echoes,
    listening,
    networked,
    play,
)


@pytest.mark.parametrize(
    ("addr", "asked"), [("127.0.0.1", "127.0.0.1"), ("0:0::1", "::1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "")]
)
def test_the_address_of_a_listening_socket_is_asked_for(tmp_path: Path, addr: str, asked: str) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening(addr=addr))
        run = await execution.runs.start(RunRequest())
        assert execution.network.addresses == {PORT: asked}
        await execution.runs.stop(run.id)

    play(tmp_path, scenario)


def test_an_address_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"`addr`: 'web.test' is not an IP address.*files\[0\]"):
        msgspec.convert({"files": [listening(addr="web.test")]}, WorkloadConfiguration)


@pytest.mark.parametrize("prot", ["tcp", "tls"])
@pytest.mark.parametrize("mode", MODES)
def test_a_guest_echoes_single_bytes_blocks_and_two_mebibytes(tmp_path: Path, mode: str, prot: str) -> None:
    pattern = bytes(range(256)) * 256

    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening(prot))
        run = await execution.runs.start(RunRequest(args=(mode, "2")))
        for _ in range(2):
            async with client(execution, prot) as (reader, writer):
                for content in (b"a", b"b", pattern, pattern * 32):
                    await echoes(reader, writer, content)
        over = await execution.finished(run.id)
        assert (ending(over).code, await execution.stderr(over)) == (0, b"")

    play(tmp_path, scenario)


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_sixty_four_kibibyte_round_trips_do_not_stall(tmp_path: Path, prot: str) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening(prot))
        run = await execution.runs.start(RunRequest(args=("poll",)))
        async with client(execution, prot) as (reader, writer):
            for number in range(200):
                await echoes(reader, writer, bytes((number,)) * 65536)
        assert ending(await execution.finished(run.id)).code == 0

    play(tmp_path, scenario)


@pytest.mark.parametrize("prot", ["tcp", "tls"])
def test_enarx_listen_three_connections_each_in_its_mode(tmp_path: Path, prot: str) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_lines"))
        await configure(execution, listening(prot), listening("tcp", PORT + 1, name="ping"))
        run = await execution.runs.start(RunRequest(args=("listen",)))
        for _ in range(3):
            async with client(execution, prot) as (reader, writer):
                for line in (b"one\n", b"two\n", b"three\n"):
                    writer.write(line)
                    assert await reader.readline() == line
                assert await reader.read() == b""
        over = await execution.finished(run.id)
        assert await execution.stderr(over) == b""
        assert (ending(over).code, await execution.stdout(over)) == (0, b"done\n")

    play(tmp_path, scenario)


def test_enarx_connect_by_default_blocking_and_non_blocking(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_lines"))
        await configure(execution, connecting(name="stream"))
        async with echo_server(execution):
            over = await execution.run(RunRequest(args=("connect",)))
        assert await execution.stderr(over) == b""
        assert (ending(over).code, await execution.stdout(over)) == (0, b"done\n")

    play(tmp_path, scenario)


def test_without_files_a_run_has_no_fd_count_and_with_files_it_comes_before_the_guests_own(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("args_env"))
        assert b"FD_" not in await execution.stdout(await execution.run())
        await configure(execution, env={"A": "1"})
        shown = await execution.stdout(await execution.run())
        assert shown == b"arg main.wasm\nenv A=1\nenv FD_COUNT=3\nenv FD_NAMES=stdin:stdout:stderr\n"

    play(tmp_path, scenario)


def test_streams_that_files_leave_out_lead_nowhere_and_stand_where_they_are_put(tmp_path: Path) -> None:
    copies = """(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 5))
        (if (call $read (i32.const %d) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable))
        (i32.store (i32.const 4) (i32.load (i32.const 16)))
        (if (call $write (i32.const %d) (i32.const 0) (i32.const 1) (i32.const 16)) (then unreachable))))"""

    async def scenario(execution: Execution) -> None:
        async def written(files: list[dict[str, Any]], source: int, target: int) -> tuple[bytes, bytes]:
            await execution.load(wat(copies % (source, target)))
            await execution.configuration.replace(msgspec.convert({"files": files}, WorkloadConfiguration))
            run = await execution.run(RunRequest(stdin=Stdin(base64="aGVsbG8=")))
            assert ending(run).code == 0
            return await execution.stdout(run), await execution.stderr(run)

        stdin, stdout, stderr = STREAMS
        null = {"kind": "null"}
        assert await written([stdin, stdout], 0, 1) == (b"hello", b"")
        assert await written([stdin, null, stderr], 0, 1) == (b"", b"")
        assert await written([null, stdout], 0, 1) == (b"", b"")
        assert await written([stdin, stderr, stdout], 0, 1) == (b"", b"hello")
        assert await written([stdin, stderr, stdout], 0, 2) == (b"hello", b"")
        assert await written([null, null, null, stdin, stdout], 3, 4) == (b"hello", b"")
        assert await written([], 0, 1) == (b"", b"")

    play(tmp_path, scenario)


def test_connections_beyond_what_a_guest_accepts_wait_outside(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening())
        number = 3 * MAX_UNACCEPTED
        run = await execution.runs.start(RunRequest(args=("blocking", str(number))))
        port = execution.network.bound[PORT]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(number)]
        for reader, writer in opened:
            await echoes(reader, writer, b"mine")
            writer.close()
        assert ending(await execution.finished(run.id)).code == 0

    play(tmp_path, scenario)


def test_the_end_of_a_run_frees_its_port_and_cuts_its_connections(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening("tls"), listening("tcp", PORT + 1, name="b"))
        run = await execution.runs.start(RunRequest(args=("poll", "9")))
        async with client(execution, "tls") as (reader, writer):
            await echoes(reader, writer, b"x")
            await execution.runs.stop(run.id)
            assert await reader.read() == b""
        for port in (PORT, PORT + 1):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", execution.network.bound[port])

    play(tmp_path, scenario)


def test_a_run_that_waits_for_another_gets_its_sockets_when_it_begins(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load(guest("sock_echo"))
        await configure(execution, listening())
        first = await execution.runs.start(RunRequest())
        second = await execution.runs.start(RunRequest())
        third = await execution.runs.start(RunRequest())
        assert second.state is RunState.QUEUED
        assert (await execution.runs.stop(third.id)).state is RunState.EXITED
        old = execution.network.bound[PORT]
        async with client(execution) as (reader, writer):
            await echoes(reader, writer, b"first")
        assert ending(await execution.finished(first.id)).code == 0
        while execution.network.bound[PORT] == old:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        async with client(execution) as (reader, writer):
            await echoes(reader, writer, b"second")
        assert ending(await execution.finished(second.id)).code == 0

    one = msgspec.structs.replace(networked(), limits=msgspec.structs.replace(networked().limits, runs=1))
    execute(tmp_path, scenario, one)


def test_components_have_no_sockets_and_are_told_so(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        await execution.load((REPOSITORY / "examples" / "shout" / "shout.wasm").read_bytes())
        await configure(execution, listening())
        with refused(ErrorCode.WORKLOAD_NOT_RUNNABLE):
            await execution.run()
        with pytest.raises(RefusalError, match="its `wasi:sockets` refuse every socket"):
            await execution.load((REPOSITORY / "examples" / "geometry" / "geometry.wasm").read_bytes())
        assert execution.workload.info.kind is WorkloadKind.COMPONENT_COMMAND
        await execution.load(guest("sock_echo"))

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (listening(port=9), "`network.listen` does not name it"),
        ({"kind": "connect", "host": "evil.test", "prot": "tcp", "port": PORT}, "evil.test:7000"),
        ({"kind": "connect", "host": "peer.test", "prot": "tcp", "port": 22}, "peer.test:22"),
    ],
)
def test_what_the_spec_does_not_name_is_refused_when_it_is_configured(
    tmp_path: Path, file: dict[str, Any], words: str
) -> None:
    async def scenario(execution: Execution) -> None:
        with pytest.raises(RefusalError, match=words) as refusal:
            await configure(execution, file)
        assert refusal.value.code is ErrorCode.CONFIGURATION_REFUSED
        assert (refusal.value.field or "").startswith("$.files[3]")

    play(tmp_path, scenario)


def test_enarx_return_1_and_the_stress_of_memory(tmp_path: Path) -> None:
    async def scenario(execution: Execution) -> None:
        for name, arguments in (("return_1", ()), ("memspike", ()), ("memspike", ("stress",))):
            await execution.load(guest(name))
            over = await execution.run(RunRequest(args=arguments))
            assert (ending(over).reason, ending(over).code) == (ExitReason.CODE, 0), name
        await execution.load(guest("return_1"))
        await configure(execution, listening())
        assert ending(await execution.run()).code == 0
        await execution.load(guest("zerooneone"))
        await execution.configuration.remove()
        text = "R29vZCBtb3JuaW5nLCB0aGF0J3MgYSBuaWNlIHRuZXRlbm5iYS4KMDExOCA5OTkgODgxIDk5OSAxMTkgNzI1IDMK"
        over = await execution.run(RunRequest(stdin=Stdin(base64=text)))
        assert await execution.stdout(over) == b"Tbbq zbeavat, gung'f n avpr gargraaon.\n0118 999 881 999 119 725 3\n"

    play(tmp_path, scenario)
