"""Runs with secrets: as variables and as files in memory, with real guests, and nothing of them anywhere after."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from app_loader.calls import Calls
from app_loader.configuration_store import ConfigurationStore
from app_loader.files import Files
from app_loader.run_plan import check_request_of_caller
from app_loader.run_sockets import SocketOpener
from app_loader.runner import Runner
from app_loader.runs import Runs
from app_loader.secret_files import SecretFiles, memory_parent
from app_loader.secret_store import SecretStore
from app_loader.workload import Workload
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import RunExit, RunRequest
from keep_protocol.memory_folder import SHARED_MEMORY, memory_folder_of
from keep_protocol.secret_api import SecretUse
from keep_protocol.states import ExitReason
from keep_protocol.workload_configuration import WorkloadConfiguration
from tests.unit.app_loader.execution_harness import SPINS, Execution, ending, guest, refused, spec, wat

T = TypeVar("T")

CANARY = "canary-5d1c9a7e"


def with_secrets(
    state: Path,
    scenario: Callable[[Execution, SecretStore], Awaitable[T]],
    *,
    restart_runs: bool = False,
    runs: int = 4,
) -> T:
    """Play a scenario on a keep's execution part with a store of secrets."""
    runner = Runner.fork(state)
    wanted = spec(restart_runs=restart_runs, runs=runs)

    async def play() -> T:
        await runner.attach()
        store = SecretStore()
        workload = Workload(state, runner, wanted.limits)
        configuration = ConfigurationStore(state, wanted)
        execution = Execution(
            state,
            runner,
            workload,
            Runs(
                *(state, runner, workload, wanted),
                secrets=store,
                configuration=configuration,
                sockets=lambda: SocketOpener(None, state),
            ),
            Calls(runner, workload, wanted.limits),
            configuration,
            Files(state / "files", wanted.limits.files),
        )
        workload.restore()
        execution.runs.restore()
        try:
            return await scenario(execution, store)
        finally:
            await execution.close()

    return asyncio.run(play())


def folder_of(state: Path) -> Path:
    """Where this keep's secrets are as files."""
    return memory_folder_of(state, SHARED_MEMORY)


def on_disk(state: Path, needle: str) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file() and needle.encode() in path.read_bytes()]


def test_a_run_gets_a_secret_as_a_variable(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> bytes:
        await execution.load(guest("args_env"))
        store.put("db", bytearray(CANARY.encode()))
        run = await execution.run(RunRequest(env={"LANG": "C"}, secrets=(SecretUse("db", env="DB_PASSWORD"),)))
        return await execution.stdout(run)

    output = with_secrets(tmp_path, scenario)
    assert f"env DB_PASSWORD={CANARY}\nenv LANG=C\n".encode() in output


def test_a_run_gets_secrets_as_files_that_are_never_on_disk(tmp_path: Path) -> None:
    value = bytes(range(256))

    async def scenario(execution: Execution, store: SecretStore) -> bytes:
        await execution.load(guest("read_file"))
        store.put("binary", bytearray(value))
        store.put("text", bytearray(CANARY.encode()))
        files = ("/secrets/deep/binary", "/secrets/text", "/secrets/again")
        run = await execution.run(
            RunRequest(
                args=files,
                secrets=tuple(
                    SecretUse(name, file=file) for name, file in zip(("binary", "text", "text"), files, strict=True)
                ),
            )
        )
        assert ending(run).code == 0, await execution.stderr(run)
        return await execution.stdout(run)

    assert with_secrets(tmp_path, scenario) == value + CANARY.encode() * 2


def test_secret_files_cannot_be_written(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> bytes:
        await execution.load(guest("write_file"))
        store.put("db", bytearray(b"value"))
        run = await execution.run(
            RunRequest(args=("/secrets/new", "x"), secrets=(SecretUse("db", file="/secrets/db"),))
        )
        return await execution.stdout(run)

    assert with_secrets(tmp_path, scenario) == b"/secrets/new EPERM\n"


def test_while_a_run_has_secrets_they_are_in_memory_only_and_afterwards_nowhere(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> None:
        await execution.load(wat(SPINS))
        store.put("db", bytearray(CANARY.encode()))
        run = await execution.runs.start(
            RunRequest(secrets=(SecretUse("db", env="DB"), SecretUse("db", file="/secrets/db")))
        )
        pid = await execution.spinning(run)
        folder = folder_of(tmp_path)
        assert [path.read_text() for path in folder.rglob("db")] == [CANARY]
        assert on_disk(tmp_path, CANARY) == []
        for name in ("cmdline", "environ"):
            assert CANARY.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        store.remove("db")
        await execution.runs.stop(run.id)
        assert [*folder.rglob("*")] == [folder / "files"]

    with_secrets(tmp_path, scenario, restart_runs=True)
    assert not folder_of(tmp_path).exists()
    assert on_disk(tmp_path, CANARY) == []


def test_a_run_keeps_what_it_got_and_a_queued_one_gets_what_is_there_when_it_starts(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> tuple[bytes, ExitReason, str | None]:
        await execution.load(guest("args_env"))
        store.put("db", bytearray(b"old"))
        store.put("other", bytearray(b"value"))
        use = (SecretUse("db", env="DB"),)
        first = await execution.runs.start(RunRequest(secrets=use))
        second = await execution.runs.start(RunRequest(secrets=use))
        third = await execution.runs.start(RunRequest(secrets=(SecretUse("other", env="DB"),)))
        store.put("db", bytearray(b"new"))
        store.remove("other")
        output = await execution.stdout(await execution.finished(first.id))
        output += await execution.stdout(await execution.finished(second.id))
        lost = ending(await execution.finished(third.id))
        return output, lost.reason, lost.message

    output, reason, message = with_secrets(tmp_path, scenario, runs=1)
    assert [line for line in output.splitlines() if line.startswith(b"env DB")] == [b"env DB=old", b"env DB=new"]
    assert reason is ExitReason.LOST
    assert "there is no secret 'other'" in str(message)


def test_a_run_that_a_restart_interrupted_does_not_start_again_without_its_secrets(tmp_path: Path) -> None:
    async def interrupted(execution: Execution, store: SecretStore) -> str:
        await execution.load(wat(SPINS))
        store.put("db", bytearray(CANARY.encode()))
        run = await execution.runs.start(RunRequest(secrets=(SecretUse("db", env="DB"),)))
        await execution.spinning(run)
        os.kill(execution.runner.pid, signal.SIGKILL)
        await execution.runner.died.wait()
        return run.id

    async def again(execution: Execution, store: SecretStore) -> RunExit:
        await execution.workload.warm()
        await execution.runs.resume()
        return ending(await execution.finished(run_id))

    run_id = with_secrets(tmp_path, interrupted, restart_runs=True)
    assert on_disk(tmp_path, CANARY) == []
    over = with_secrets(tmp_path, again, restart_runs=True)
    assert over.reason is ExitReason.LOST
    assert "there is no secret 'db'" in str(over.message)


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        (RunRequest(secrets=(SecretUse("missing", env="A"),)), ErrorCode.SECRET_NOT_FOUND),
        (RunRequest(secrets=(SecretUse("text", env="A"), SecretUse("text", env="A"))), ErrorCode.FIELD_INVALID),
        (RunRequest(env={"A": "1"}, secrets=(SecretUse("text", env="A"),)), ErrorCode.FIELD_INVALID),
        (RunRequest(secrets=(SecretUse("text", file="/s/a"),) * 2), ErrorCode.FIELD_INVALID),
        (RunRequest(secrets=(SecretUse("text", file="/input/a"),)), ErrorCode.FIELD_INVALID),
        (RunRequest(secrets=(SecretUse("nul", env="A"),)), ErrorCode.FIELD_INVALID),
        (RunRequest(secrets=(SecretUse("binary", env="A"),)), ErrorCode.FIELD_INVALID),
    ],
)
def test_a_run_that_cannot_have_its_secrets_is_refused(tmp_path: Path, request_of: RunRequest, code: ErrorCode) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> None:
        await execution.load(guest("args_env"))
        store.put("text", bytearray(b"text"))
        store.put("nul", bytearray(b"a\0b"))
        store.put("binary", bytearray(b"\xff\xfe"))
        with refused(code):
            await execution.runs.start(request_of)
        assert execution.runs.list() == ()

    with_secrets(tmp_path, scenario)


@pytest.mark.parametrize("file", ["relative", "/", "/a//b", "/a/../b", "/a/.", "/" + "n" * 256])
def test_a_file_of_a_secret_is_an_absolute_plain_path(file: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        SecretUse("name", file=file)


def test_a_secret_is_given_in_one_way() -> None:
    with pytest.raises(ValueError, match="either"):
        SecretUse("name")
    with pytest.raises(ValueError, match="either"):
        SecretUse("name", env="A", file="/a")


def test_what_an_earlier_life_left_in_memory_is_removed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "r0" / "0").mkdir(parents=True)
    (folder / "r0" / "0" / "db").write_text(CANARY)

    async def scenario(execution: Execution, store: SecretStore) -> None:
        assert not folder.exists()

    with_secrets(tmp_path, scenario)


def test_a_run_does_not_see_the_secrets_of_another(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> bytes:
        await execution.load(guest("read_file"))
        store.put("db", bytearray(CANARY.encode()))
        use = (SecretUse("db", file="/secrets/db"),)
        wanted = ("/secrets/db", "/secrets/../0/db", "/secrets/../../r1/0/db", "/dev/shm")
        run = await execution.run(RunRequest(args=wanted, secrets=use))
        without = await execution.run(RunRequest(args=wanted))
        assert await execution.stdout(without) == b""
        return await execution.stdout(run)

    assert with_secrets(tmp_path, scenario) == CANARY.encode()


def test_only_a_tmpfs_holds_secrets(tmp_path: Path) -> None:
    assert memory_parent((tmp_path, Path("/proc"))) is None
    assert memory_parent((tmp_path, SHARED_MEMORY)) == SHARED_MEMORY


@pytest.mark.parametrize("taken_by", ["a folder for others", "a link", "a file"])
def test_a_name_that_somebody_else_took_in_memory_holds_no_secrets(tmp_path: Path, taken_by: str) -> None:
    folder = folder_of(tmp_path)
    if taken_by == "a link":
        folder.symlink_to(tmp_path)
    elif taken_by == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o755)
    try:
        with refused(ErrorCode.SECRET_UNUSABLE):
            SecretFiles(tmp_path).make("r1", {"/secrets": {"db": bytearray(b"value")}})
        assert list(tmp_path.iterdir()) == []
    finally:
        if folder.is_dir() and not folder.is_symlink():
            folder.rmdir()
        folder.unlink(missing_ok=True)


def test_a_configured_secret_reaches_every_run_that_does_not_choose_its_own(tmp_path: Path) -> None:
    async def scenario(execution: Execution, store: SecretStore) -> None:
        store.put("db", bytearray(b"hush"))
        await execution.load(guest("args_env"))
        await execution.configuration.replace(WorkloadConfiguration(secrets=(SecretUse("db", env="DB"),), mounts=()))
        assert await execution.stdout(await execution.run()) == b"arg main.wasm\nenv DB=hush\n"
        assert await execution.stdout(await execution.run(RunRequest(secrets=()))) == b"arg main.wasm\n"

    with_secrets(tmp_path, scenario)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (RunRequest(args=("x",)), "$.args"),
        (RunRequest(env={"A": "1"}), "$.env"),
        (RunRequest(program="x"), "$.program"),
        (RunRequest(mounts=()), "$.mounts"),
        (RunRequest(secrets=(SecretUse("db", env="B"),)), "$.secrets"),
    ],
)
def test_callers_choose_nothing_that_could_print_configured_secrets(asked: RunRequest, field: str) -> None:
    configured = WorkloadConfiguration(secrets=(SecretUse("db", env="DB"),))
    with pytest.raises(RefusalError) as refusal:
        check_request_of_caller(asked, configured)
    assert (refusal.value.code, refusal.value.field) == (ErrorCode.FORBIDDEN, field)
    check_request_of_caller(RunRequest(stdin="stream", timeout=1), configured)
    if not asked.secrets:
        check_request_of_caller(asked, WorkloadConfiguration())
