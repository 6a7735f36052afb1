"""Tests of `app_loader.runner`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from pathlib import Path

import pytest

from app_loader.errors import ModuleLoadError, RunnerDiedError
from app_loader.runner import Runner
from keep_protocol.keep_api import RunRequest, WorkloadDescription
from keep_protocol.states import ExitReason, WorkloadKind
from tests.unit.app_loader.execution_harness import (
    PATIENCE,
    RETURNS,
    SPINS,
    Execution,
    alive,
    execute,
    guest,
    memory_holds,
    wat,
)


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed our own
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def killability(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while alive(pid):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_before_its_first_order_a_runner_has_let_go_of_the_server(tmp_path: Path) -> None:
    secret_file = os.open(tmp_path, os.O_RDONLY)

    async def scenario(keep: Execution) -> None:
        runner = keep.runner.pid
        async with asyncio.timeout(PATIENCE):
            while len(descriptors(runner)) != 4:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        kinds = sorted(name.partition("[")[0] for name in descriptors(runner).values())
        assert kinds == ["/dev/null"] * 3 + ["socket:"]
        assert Path(f"/proc/{runner}/comm").read_text() == "keep-runner\n"

    try:
        execute(tmp_path, scenario)
    finally:
        os.close(secret_file)


def test_a_runner_that_never_got_an_order_ends_with_its_channel(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> int:
        await keep.runner.close()
        return keep.runner.pid

    assert not alive(execute(tmp_path, scenario))


def test_a_runner_has_no_descriptors_of_the_server(tmp_path: Path) -> None:
    secret_file = os.open(tmp_path, os.O_RDONLY)

    async def scenario(keep: Execution) -> None:
        await keep.runner.warm()
        found = descriptors(keep.runner.pid)
        assert [found.pop(number) for number in (0, 1, 2)] == ["/dev/null"] * 3
        kinds = sorted(name.partition("[")[0] for name in found.values())
        assert kinds == [f"/proc/{keep.runner.pid}/oom_score_adj", "socket:"]

    try:
        execute(tmp_path, scenario)
    finally:
        os.close(secret_file)


def test_a_run_has_stdio_its_folders_its_module_and_its_report_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        going_runs = [await keep.runs.start(RunRequest()) for _ in range(4)]
        others = (*descriptors(os.getpid()).values(), *descriptors(keep.runner.pid).values())
        for going in going_runs:
            found = descriptors(await keep.spinning(going))
            files = {name.removeprefix(f"{tmp_path}/") for name in found.values() if name.startswith(str(tmp_path))}
            modules = {name for name in files if name.startswith("workload/") and name.endswith(".cwasm")}
            pipes = sorted(number for number, name in found.items() if name.startswith("pipe:"))
            assert found[0] == "/dev/null"
            assert pipes[:2] == [1, 2]
            assert len(pipes) == 3
            assert files - modules == {"files/input", "files/output", "files/data"}
            assert len(modules) == 1
            # What is left is of wasmtime's own event loop, whose pair of sockets is nobody else's.
            left = [name for name in found.values() if not name.startswith((str(tmp_path), "pipe:", "/dev/null"))]
            sockets = {name for name in left if name.startswith("socket:")}
            assert {*left} - sockets <= {"anon_inode:[eventpoll]", "anon_inode:[eventfd]"}
            assert not sockets & {*others}

    execute(tmp_path, scenario)


def test_what_the_server_learns_after_the_fork_is_in_no_memory_of_runner_or_run(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        secret = secrets.token_bytes(32)
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        pid = await keep.spinning(run)
        assert memory_holds(os.getpid(), secret)
        assert not memory_holds(keep.runner.pid, secret)
        assert not memory_holds(pid, secret)

    execute(tmp_path, scenario)


def test_the_arguments_of_one_run_are_in_no_memory_of_another(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        secret = secrets.token_hex(32)
        await keep.load(wat(SPINS))
        first = await keep.runs.start(RunRequest(args=(secret,)))
        first_pid = await keep.spinning(first)
        second_pid = await keep.spinning(await keep.runs.start(RunRequest()))
        third_pid = await keep.spinning(await keep.runs.start(RunRequest()))
        assert memory_holds(first_pid, secret.encode())
        for pid in (keep.runner.pid, second_pid, third_pid):
            assert not memory_holds(pid, secret.encode())

    execute(tmp_path, scenario)


def test_processes_are_named_and_the_run_is_the_most_killable(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        pid = await keep.spinning(await keep.runs.start(RunRequest()))
        names = [Path(f"/proc/{number}/comm").read_text().strip() for number in (keep.runner.pid, pid)]
        assert names == ["keep-runner", "keep-run"]
        assert killability(pid) == 1000
        # The runner is as killable for the moment in which it forks, for a child to inherit it.
        async with asyncio.timeout(PATIENCE):
            while killability(keep.runner.pid) == 1000:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert killability(os.getpid()) < killability(keep.runner.pid)

    execute(tmp_path, scenario)


def test_the_runner_reports_that_it_is_confined(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.runner.warm()
        facts = {fact.name: fact for fact in await keep.runner.facts()}
        assert set(facts) == {"runner-no-new-privileges", "runner-landlock", "runner-seccomp"}
        assert facts["runner-no-new-privileges"].holds

    execute(tmp_path, scenario)


def test_a_killed_runner_is_noticed_and_takes_its_runs_with_it(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(SPINS))
        run = await keep.runs.start(RunRequest())
        pid = await keep.spinning(run)
        os.kill(keep.runner.pid, signal.SIGKILL)
        await keep.runner.died.wait()
        lost = await keep.finished(run.id)
        assert lost.exit is not None
        assert lost.exit.reason == ExitReason.LOST
        await gone(pid)
        with pytest.raises(RunnerDiedError):
            await keep.runner.warm()

    execute(tmp_path, scenario)


def test_closing_the_runner_ends_its_runs_and_leaves_no_zombie(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> tuple[int, int]:
        await keep.load(wat(SPINS))
        pid = await keep.spinning(await keep.runs.start(RunRequest()))
        return keep.runner.pid, pid

    for pid in execute(tmp_path, scenario):
        assert not os.path.exists(f"/proc/{pid}")


def test_a_runner_that_was_never_warmed_runs_nevertheless(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(wat(RETURNS))
        run = await keep.run()
        assert run.exit is not None
        assert run.exit.code == 0

    execute(tmp_path, scenario)


def test_arguments_of_megabytes_arrive(tmp_path: Path) -> None:
    arguments = tuple(f"{number}{'x' * 100_000}" for number in range(20))

    async def scenario(keep: Execution) -> None:
        await keep.load(guest("args_env"))
        run = await keep.run(RunRequest(args=arguments, program="p"))
        expected = "".join(f"arg {argument}\n" for argument in ("p", *arguments))
        assert (await keep.stdout(run)).decode() == expected

    execute(tmp_path, scenario)


def test_a_module_with_another_digest_is_not_mapped(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        path = tmp_path / "workload" / "forged.cwasm"
        path.write_bytes(b"native code")
        with pytest.raises(ModuleLoadError, match="digest"):
            await keep.runner.load("forged", path, "00" * 32, WorkloadDescription(WorkloadKind.COMMAND))

    execute(tmp_path, scenario)


def test_a_runner_dies_with_a_server_that_is_killed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    server = os.fork()
    if server == 0:
        runner = Runner.fork(tmp_path)
        os.write(writer, str(runner.pid).encode())
        signal.pause()
        os._exit(1)
    os.close(writer)
    pid = int(os.read(reader, 32))
    os.close(reader)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    asyncio.run(gone(pid))
