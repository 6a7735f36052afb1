"""Python source in a keep, run by the real runtime, which is built once for these tests."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keep_client.python_runtime.guest.wasmkeep_modules import MODULES
from keep_protocol.errors import ErrorCode
from keep_protocol.keep_api import Run, RunRequest, Stdin
from keep_protocol.python_source import MAX_SOURCE, python_digest
from keep_protocol.spec import KeepSpec, MiB
from keep_protocol.states import AtRest, ExitReason, WorkloadKind
from tests.unit.app_loader.execution_harness import ECHO, Execution, ending, execute, refused, spec, stream

pytest.importorskip("componentize_py", reason="componentize-py is not installed")

REPORT = Path(__file__).resolve().parents[3] / "examples/report/report.py"
SPEC = spec(at_rest=AtRest.PLAIN)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def runtime(python_runtime: Path) -> bytes:
    """CPython as a component."""
    return python_runtime.read_bytes()


@pytest.fixture(scope="module")
def loaded(runtime: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state of a keep that has the runtime compiled."""
    state = tmp_path_factory.mktemp("k")

    async def scenario(keep: Execution) -> None:
        await keep.load(runtime)

    execute(state, scenario, SPEC)
    yield state
    shutil.rmtree(state)


class Interpreter:
    """Runs programs in one keep, each as after a restart of it."""

    def __init__(self, state: Path, runtime: str) -> None:
        self._state = state
        self._runtime = runtime

    def __call__(self, source: str, request: RunRequest | None = None) -> tuple[Run, str, str]:
        """The run, and what it wrote."""

        async def scenario(keep: Execution) -> tuple[Run, str, str]:
            await load(keep, source, self._runtime)
            run = await keep.run(request or RunRequest(program="app.py"))
            return run, (await keep.stdout(run)).decode(), (await keep.stderr(run)).decode()

        return execute(self._state, scenario, SPEC)


@pytest.fixture
def python(loaded: Path, runtime: bytes) -> Interpreter:
    return Interpreter(loaded, sha256(runtime))


async def load(keep: Execution, source: str, runtime: str) -> str | None:
    info = await keep.workload.replace_python(stream(source.encode()), runtime, expected_digest=None, size=None)
    assert info.kind is WorkloadKind.PYTHON
    assert info.digest == python_digest(runtime, sha256(source.encode()))
    return info.digest


def test_a_program_has_arguments_environment_input_folders_and_its_exit_code(python: Interpreter) -> None:
    request = RunRequest(args=("a b", "ü"), program="app.py", env={"GREETING": "hi"}, stdin=Stdin("bGluZQo="))
    run, stdout, stderr = python(
        """
import os, sys
print(sys.argv, os.environ["GREETING"], input(), __name__, __file__)
open("/output/made", "w").write("kept")
print(open("/output/made").read(), sorted(os.listdir("/data")), file=sys.stderr)
sys.exit(7)
""",
        request,
    )
    assert ending(run).code == 7
    assert stdout == "['app.py', 'a b', 'ü'] hi line __main__ app.py\n"
    assert stderr == "kept []\n"


def test_the_example_sums_what_it_is_given(loaded: Path, python: Interpreter) -> None:
    (loaded / "files/input/sales.csv").write_text("category,amount\nbooks,1.10\nfood,2\nbooks,2.20\n")
    run, stdout, _ = python(REPORT.read_text(), RunRequest(args=("/input/sales.csv",), program="report.py"))
    assert (ending(run).code, stdout.split()) == (0, ["books", "3.30", "food", "2"])
    assert (loaded / "files/output/report.json").read_text() == '{"books": "3.30", "food": "2"}'


@pytest.mark.parametrize(
    ("source", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no more')", 1, "no more\n"),
        ("raise SystemExit(259)", 3, ""),
        ("raise SystemExit(2**70)", 255, ""),
        ("import atexit, os; atexit.register(print, 'never'); os._exit(7)", 7, ""),
        ("\ufeffraise SystemExit(4)", 4, ""),
        ("import atexit, sys; atexit.register(lambda: print('bye', file=sys.stderr)); sys.exit(2)", 2, "bye\n"),
    ],
)
def test_programs_end_as_they_do_elsewhere(python: Interpreter, source: str, code: int, stderr: str) -> None:
    run, _, written = python(source)
    assert (ending(run).code, written) == (code, stderr)


def test_a_traceback_shows_file_line_and_source_of_the_program_alone(python: Interpreter) -> None:
    run, _, stderr = python("def f():\n    return 1 / 0\n\nf()\n")
    assert ending(run).code == 1
    assert stderr.splitlines()[0:3] == [
        "Traceback (most recent call last):",
        '  File "app.py", line 4, in <module>',
        "    f()",
    ]
    assert '  File "app.py", line 2, in f\n    return 1 / 0\n' in stderr
    assert stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "wasmkeep" not in stderr


def test_a_syntax_error_is_the_program_s(python: Interpreter) -> None:
    run, _, stderr = python("x = (1,\n")
    assert ending(run).code == 1
    assert 'File "app.py", line 1' in stderr
    assert "SyntaxError" in stderr


def test_every_module_that_is_documented_can_be_imported(python: Interpreter) -> None:
    run, stdout, stderr = python("\n".join(f"import {name}" for name in MODULES) + "\nprint('all')")
    assert (ending(run).code, stdout, stderr) == (0, "all\n", "")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import ssl", "ModuleNotFoundError"),
        ("import ctypes", "ModuleNotFoundError"),
        ("import threading; threading.Thread(target=print).start()", "RuntimeError: can't start new thread"),
        ("import subprocess; subprocess.run(['true'])", "OSError"),
        ("import numpy", "ModuleNotFoundError"),
        ("import asyncio; asyncio.run(asyncio.sleep(0))", "Error"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "socket.gaierror"),
    ],
)
def test_what_does_not_work_is_an_error_of_python(python: Interpreter, source: str, error: str) -> None:
    run, _, stderr = python(source)
    assert (ending(run).reason, ending(run).code) == (ExitReason.CODE, 1)
    assert error in stderr


def test_runs_differ_in_randomness_and_time(python: Interpreter) -> None:
    source = "import random, time, uuid; print(random.random(), uuid.uuid4(), time.time_ns())"
    first, second = python(source)[1].split(), python(source)[1].split()
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_memory_is_an_error_of_python_and_then_of_the_run(python: Interpreter) -> None:
    request = RunRequest(program="app.py", memory=64 * MiB)
    run, stdout, _ = python("try:\n    bytes(10**9)\nexcept MemoryError:\n    print('caught')\n", request)
    assert (ending(run).code, stdout) == (0, "caught\n")
    assert ending(python("x = []\nwhile True: x.append(bytes(10**6))", request)[0]).reason == ExitReason.MEMORY


def test_the_runtime_runs_files_and_says_how_it_is_used(loaded: Path, runtime: bytes) -> None:
    async def scenario(keep: Execution) -> None:
        await keep.load(runtime)
        (loaded / "files/input/app.py").write_text("import sys; print(sys.argv, __file__)")
        run = await keep.run(RunRequest(args=("/input/app.py", "x"), program="python"))
        assert await keep.stdout(run) == b"['/input/app.py', 'x'] /input/app.py\n"
        assert ending(await keep.run(RunRequest(args=("/input/none.py",), program="python"))).code == 2
        run = await keep.run(RunRequest(program="python"))
        assert (ending(run).code, (await keep.stderr(run))[:13]) == (2, b"usage: python")

    execute(loaded, scenario, SPEC)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"x" * (MAX_SOURCE + 1), ErrorCode.BODY_TOO_LARGE),
        (b"print('\xff')", ErrorCode.WORKLOAD_INVALID),
        (b"print(1)\0", ErrorCode.WORKLOAD_INVALID),
    ],
    ids=["long", "latin-1", "zero"],
)
def test_what_is_no_program_is_refused_and_changes_nothing(tmp_path: Path, content: bytes, code: ErrorCode) -> None:
    async def scenario(keep: Execution) -> None:
        before = await keep.load(ECHO)
        with refused(code):
            await keep.workload.replace_python(stream(content), before.digest or "", expected_digest=None, size=None)
        assert keep.workload.info == before

    execute(tmp_path, scenario)


def test_a_module_is_no_runtime(tmp_path: Path) -> None:
    async def scenario(keep: Execution) -> None:
        echo = await keep.load(ECHO)
        for runtime in (echo.digest or "", "0" * 64):
            with refused(ErrorCode.RUNTIME_NOT_FOUND):
                await load(keep, "print(1)", runtime)

    execute(tmp_path, scenario)


def test_source_survives_a_restart_is_sealed_at_rest_and_is_missed_when_it_was_changed(tmp_path: Path) -> None:
    of: KeepSpec = spec(at_rest=AtRest.SEALED)
    shout = (Path(__file__).resolve().parents[3] / "examples/shout/shout.wasm").read_bytes()
    source = "print('a secret of the owner')"

    async def first(keep: Execution) -> str | None:
        await keep.load(shout)
        return await load(keep, source, sha256(shout))

    digest = execute(tmp_path, first, of)
    (file,) = (tmp_path / "workload").glob("*.py")
    assert b"secret" not in file.read_bytes()

    async def second(keep: Execution) -> None:
        assert (await keep.workload.acquire()).source == source
        assert keep.workload.info.digest == digest

    execute(tmp_path, second, of)
    file.write_bytes(file.read_bytes()[:-1])

    async def third(keep: Execution) -> None:
        with refused(ErrorCode.SEALED_INVALID):
            await keep.workload.acquire()

    execute(tmp_path, third, of)
