"""What a keep keeps compiled: the modules that it had last, and none that it was made to forget."""

from __future__ import annotations

from pathlib import Path

import pytest

from app_loader.compilation import CompileLimits
from keep_protocol.errors import ErrorCode
from keep_protocol.spec import KeepSpec
from keep_protocol.states import AtRest
from tests.unit.app_loader.execution_harness import Execution, execute, refused, spec, wat

NO_COMPILATION = CompileLimits(wall_seconds=0)
"""With which every compilation is refused."""


def module(code: int) -> bytes:
    """That ends with this exit code."""
    return wat(
        f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"""
    )


async def exit_code(keep: Execution) -> int | None:
    run = await keep.run()
    assert run.exit is not None
    return run.exit.code


def load_all(state: Path, of: KeepSpec, *codes: int) -> None:
    async def scenario(keep: Execution) -> None:
        for code in codes:
            await keep.load(module(code))

    execute(state, scenario, of)


@pytest.mark.parametrize("at_rest", AtRest)
def test_the_last_four_modules_are_not_compiled_again_even_after_a_restart(tmp_path: Path, at_rest: AtRest) -> None:
    of = spec(at_rest=at_rest)
    load_all(tmp_path, of, 1, 2, 3, 4, 5)

    async def scenario(keep: Execution) -> None:
        for code in (2, 5, 3, 2, 4):
            info = await keep.load(module(code))
            assert (info.state, await exit_code(keep)) == ("loaded", code)
        with refused(ErrorCode.COMPILE_LIMIT):
            await keep.load(module(1))
        assert await exit_code(keep) == 4

    execute(tmp_path, scenario, of, NO_COMPILATION)


def test_the_same_module_again_is_not_compiled_and_empties_the_output(tmp_path: Path) -> None:
    load_all(tmp_path, spec(), 1)

    async def scenario(keep: Execution) -> None:
        (tmp_path / "files" / "output" / "old").write_text("of the last one")
        first = keep.workload.info.loaded_at
        again = await keep.load(module(1))
        assert again.loaded_at is not None
        assert first is not None
        assert again.loaded_at >= first
        assert not (tmp_path / "files" / "output" / "old").exists()
        assert await exit_code(keep) == 1

    execute(tmp_path, scenario, spec(), NO_COMPILATION)


def test_modules_that_are_large_together_are_not_all_kept(tmp_path: Path) -> None:
    of = spec(workload=len(module(1)))
    load_all(tmp_path, of, 1, 2, 3)

    async def scenario(keep: Execution) -> None:
        await keep.load(module(2))
        with refused(ErrorCode.COMPILE_LIMIT):
            await keep.load(module(1))

    execute(tmp_path, scenario, of, NO_COMPILATION)


def test_a_compiled_module_that_was_changed_on_disk_is_compiled_again(tmp_path: Path) -> None:
    load_all(tmp_path, spec(), 1, 2)

    async def scenario(keep: Execution) -> None:
        for compiled in (tmp_path / "workload").glob("*.cwasm"):
            content = bytearray(compiled.read_bytes())
            content[len(content) // 2] ^= 1
            compiled.write_bytes(content)
        await keep.load(module(1))
        assert await exit_code(keep) == 1

    execute(tmp_path, scenario)


def test_a_keep_that_was_made_to_forget_its_workload_keeps_no_code(tmp_path: Path) -> None:
    load_all(tmp_path, spec(), 1, 2)

    async def scenario(keep: Execution) -> None:
        await keep.workload.remove()
        assert list((tmp_path / "workload").iterdir()) == []
        with refused(ErrorCode.COMPILE_LIMIT):
            await keep.load(module(1))

    execute(tmp_path, scenario, spec(), NO_COMPILATION)


def test_what_is_no_longer_kept_leaves_no_file(tmp_path: Path) -> None:
    load_all(tmp_path, spec(), 1, 2, 3, 4, 5, 6, 1)
    kinds = sorted(entry.suffix for entry in (tmp_path / "workload").iterdir())
    assert kinds == [".cwasm"] * 4 + [".json"] + [".wasm"] * 4
