"""Tests of `testers.keepctl.run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from keep_client import new_spec, principal_of
from keep_protocol.keep_api import Mount, RunExit, RunRequest
from keep_protocol.spec import DEFAULT_LIMITS, MiB
from keep_protocol.states import ExitReason, FileArea, KeepRole
from tests.unit.keep_client.certificates import self_signed
from tests.unit.testers.conftest import Program, command, environment
from tests.unit.testers.doubles import FakeDeployment, FakeKeep, Outcome

Guest = Callable[[RunRequest, FakeKeep], Outcome]


def _exits(ended: RunExit, stdout: bytes = b"", stderr: bytes = b"") -> Guest:
    return lambda request, keep: Outcome([stdout] if stdout else (), [stderr] if stderr else (), ended)


def _existing(fake: FakeDeployment) -> FakeKeep:
    ca = (fake.home / "config" / "pki" / "client-ca.pem").read_text()
    operator = (fake.home / "config" / "pki" / "operator.pem").read_text()
    return fake.add(new_spec(principals=[principal_of(operator, [KeepRole.OWNER], client_ca=ca)]), "prices")


def test_a_program_runs_as_if_it_were_local(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    fake.guest = _exits(RunExit(ExitReason.CODE, 42), b"out\n", b"err\n")
    done = keepctl("run", str(wasm), "--arg", "one", "--env", "A=b=c", "--timeout", "30s", "--", "--two", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (42, "out\n", "err\n")
    assert fake.keeps == {}
    (keep,) = fake.removed
    assert keep.requests == [
        RunRequest(args=("one", "--two", "--json"), program="guest.wasm", env={"A": "b=c"}, timeout=30.0)
    ]
    assert keep.workload == wasm.read_bytes()


@pytest.mark.parametrize(
    ("ended", "status", "words"),
    [
        (RunExit(ExitReason.TRAP, trap="unreachable", backtrace=("0: main",)), 134, "trapped: unreachable"),
        (RunExit(ExitReason.TIMEOUT), 124, "time limit"),
        (RunExit(ExitReason.MEMORY), 137, "memory"),
        (RunExit(ExitReason.STOPPED), 143, "stopped"),
        (RunExit(ExitReason.OUTPUT_LIMIT), 125, "wrote more"),
        (RunExit(ExitReason.LOST), 125, "lost"),
    ],
)
def test_how_the_guest_ended_is_the_exit_status(
    fake: FakeDeployment, keepctl: Program, wasm: Path, ended: RunExit, status: int, words: str
) -> None:
    fake.guest = _exits(ended)
    done = keepctl("run", str(wasm))
    assert done.returncode == status
    assert words in done.stderr
    assert len(fake.removed) == 1


def test_what_is_no_wasm_is_our_error_and_leaves_no_keep(
    fake: FakeDeployment, keepctl: Program, tmp_path: Path
) -> None:
    (text := tmp_path / "text.wasm").write_text("hello")
    done = keepctl("run", str(text))
    assert (done.returncode, done.stderr) == (1, "keepctl: workload-invalid: no wasm; send a .wasm file\n")
    assert (fake.keeps, len(fake.removed)) == ({}, 1)


def test_a_file_that_is_missing_costs_no_keep(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    for arguments in (["none.wasm"], [str(wasm), "--stdin", "none"], [str(wasm), "--put", "none:/input/x"]):
        done = keepctl("run", *arguments)
        assert done.returncode == 125
        assert done.stderr.startswith("keepctl: none")
    assert fake.removed == []


def test_standard_input_comes_from_a_file_or_from_ours(
    fake: FakeDeployment, keepctl: Program, wasm: Path, tmp_path: Path
) -> None:
    def waits_for_input(request: RunRequest, keep: FakeKeep) -> Outcome:
        def echo() -> Iterator[bytes]:
            assert keep.fed.wait(30)
            yield keep.stdin

        return Outcome(echo())

    fake.guest = waits_for_input
    (tmp_path / "in.txt").write_text("from a file")
    assert keepctl("run", str(wasm), "--stdin", "in.txt").stdout == "from a file"
    assert keepctl("run", str(wasm), "--stdin", "-", stdin="from us").stdout == "from us"
    fake.guest = _exits(RunExit(ExitReason.CODE, 0))
    keepctl("run", str(wasm), stdin="unasked")
    assert [keep.requests[0].stdin for keep in fake.removed] == ["stream", "stream", None]


def test_files_are_put_before_and_fetched_after(
    fake: FakeDeployment, keepctl: Program, wasm: Path, tmp_path: Path
) -> None:
    def upper(request: RunRequest, keep: FakeKeep) -> Outcome:
        keep.files["output", "result.txt"] = keep.files["input", "text.txt"].upper()
        return Outcome()

    fake.guest = upper
    (tmp_path / "text.txt").write_text("hello")
    done = keepctl("run", str(wasm), "--put", "text.txt:/input/", "--get", "/output/result.txt:out.txt")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.txt").read_text() == "HELLO"
    assert fake.removed[0].requests[0].mounts is None


def test_a_file_that_the_guest_did_not_make_is_our_error_unless_the_guest_failed(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    for code, status in ((0, 125), (3, 3)):
        fake.guest = _exits(RunExit(ExitReason.CODE, code))
        done = keepctl("run", str(wasm), "--get", "/output/none:out.txt")
        assert done.returncode == status
        assert "--get /output/none: file-not-found" in done.stderr


def test_folders_are_sent_and_seen_where_the_guest_wants_them(
    fake: FakeDeployment, keepctl: Program, wasm: Path, tmp_path: Path
) -> None:
    def writes(request: RunRequest, keep: FakeKeep) -> Outcome:
        keep.files["output", "dir-0/made.txt"] = b"made"
        return Outcome()

    fake.guest = writes
    (tmp_path / "work" / "empty").mkdir(parents=True)
    (tmp_path / "work" / "a.txt").write_text("a")
    (tmp_path / "lib").mkdir()
    done = keepctl(
        "run",
        str(wasm),
        "--dir",
        "work:/",
        "--dir",
        "lib:fs.dir:ro",
        "--get",
        "/made.txt:got.txt",
        "--get",
        "/output:all",
    )
    assert (done.returncode, done.stderr) == (0, "")
    (keep,) = fake.removed
    assert keep.requests[0].mounts == (
        Mount("/", FileArea.OUTPUT, "dir-0", writable=True),
        Mount("fs.dir", FileArea.INPUT, "dir-1"),
        Mount("/output", FileArea.OUTPUT, writable=True),
    )
    assert keep.files["output", "dir-0/a.txt"] == b"a"
    assert keep.folders == {("output", "dir-0"), ("output", "dir-0/empty"), ("input", "dir-1")}
    assert (tmp_path / "got.txt").read_text() == "made"
    assert (tmp_path / "all" / "dir-0" / "empty").is_dir()


def test_in_an_existing_keep_a_file_is_loaded_once_and_the_keep_stays(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    keep = _existing(fake)
    assert keepctl("run", str(wasm), "--keep", "prices").returncode == 0
    assert keepctl("run", str(wasm), "--keep", keep.id).returncode == 0
    assert (keep.uploads, len(keep.requests)) == (1, 2)
    wasm.write_bytes(b"\0asm\1\0\0\0\0")
    assert keepctl("run", str(wasm), "--keep", "prices").returncode == 0
    assert keep.uploads == 2
    assert list(fake.keeps) == [keep.id]


def test_folders_of_an_earlier_run_are_replaced(
    fake: FakeDeployment, keepctl: Program, wasm: Path, tmp_path: Path
) -> None:
    keep = _existing(fake)
    keep.files["output", "dir-0/old.txt"] = b"old"
    (tmp_path / "work").mkdir()
    assert keepctl("run", str(wasm), "--keep", "prices", "--dir", "work:/work").returncode == 0
    assert keep.files == {}


def test_machines_get_one_document(fake: FakeDeployment, keepctl: Program, wasm: Path) -> None:
    fake.guest = _exits(RunExit(ExitReason.CODE, 3), b"\xff\0", b"err")
    done = keepctl("run", str(wasm), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 3
    assert (b64decode(document["stdout"]), b64decode(document["stderr"])) == (b"\xff\0", b"err")
    assert document["run"]["exit"] == {"reason": "code", "code": 3, "trap": None, "message": None, "backtrace": []}


def test_the_temporary_keep_is_large_enough_for_what_the_guest_may_use(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    keepctl("run", str(wasm), "--memory", "64M")
    keepctl("run", str(wasm), "--memory", "2G", "--timeout", "2h")
    small, large = (keep.spec.limits for keep in fake.removed)
    assert small == DEFAULT_LIMITS
    assert (large.memory, large.run_time) == (2304 * MiB, 7200)
    assert fake.removed[1].requests[0].memory == 2048 * MiB


class _Endless:
    """A guest that says that it has started and then never ends by itself."""

    def __call__(self, request: RunRequest, keep: FakeKeep) -> Outcome:
        def output() -> Iterator[bytes]:
            yield b"started\n"
            keep.stopped.wait(30)

        return Outcome(output(), exit=RunExit(ExitReason.STOPPED))


def _started(fake: FakeDeployment, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("testers.keepctl", "run", *arguments),
        env=environment(fake.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_heed_signals,
    )


def _heed_signals() -> None:
    # As in a shell's foreground: pytest itself may have been started with some of them ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_removes_the_keep(fake: FakeDeployment, wasm: Path, number: signal.Signals) -> None:
    fake.guest = _Endless()
    process = _started(fake, str(wasm))
    assert _line(process.stdout) == b"started\n"
    process.send_signal(number)
    assert _ended(process) == (128 + number, b"")
    assert (fake.keeps, len(fake.removed)) == ({}, 1)


def test_a_signal_while_the_keep_is_being_made_leaves_no_keep(fake: FakeDeployment, wasm: Path) -> None:
    process: list[subprocess.Popen[bytes]] = []
    fake.creating = lambda: process[0].send_signal(signal.SIGTERM)
    process.append(_started(fake, str(wasm)))
    assert _ended(process[0]) == (143, b"")
    assert (fake.keeps, len(fake.removed)) == ({}, 1)


def test_a_signal_stops_the_run_in_an_existing_keep(fake: FakeDeployment, wasm: Path) -> None:
    keep = _existing(fake)
    fake.guest = _Endless()
    process = _started(fake, str(wasm), "--keep", "prices")
    assert _line(process.stdout) == b"started\n"
    process.send_signal(signal.SIGINT)
    assert _ended(process) == (130, b"")
    assert keep.stopped.is_set()
    assert list(fake.keeps) == [keep.id]


def test_a_reader_that_goes_away_ends_the_run(fake: FakeDeployment, wasm: Path) -> None:
    def floods(request: RunRequest, keep: FakeKeep) -> Outcome:
        def output() -> Iterator[bytes]:
            while not keep.stopped.is_set():
                yield b"y\n" * 1000

        return Outcome(output())

    fake.guest = floods
    process = _started(fake, str(wasm))
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        os.read(process.stdout.fileno(), 1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
    assert len(fake.removed) == 1


def test_an_identity_that_the_manager_does_not_know_is_told_so(
    fake: FakeDeployment, keepctl: Program, wasm: Path
) -> None:
    bob = self_signed("spiffe://example.org/user/bob").saved(fake.home, "bob")
    done = keepctl("create", "--cert", str(bob.certificate), "--key", str(bob.key), "--json")
    assert (done.returncode, "refused our certificate" in done.stderr) == (1, True)


def _line(stream: IO[bytes] | None) -> bytes:
    assert stream is not None
    return stream.readline()
