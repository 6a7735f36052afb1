"""Tests of `app_loader.confinement`."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app_loader import landlock
from app_loader.confinement import confine_runner, confine_to_folders, confine_to_itself
from app_loader.kernel import syscall

needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
needs_signal_scope = pytest.mark.skipif(landlock.abi() < 6, reason="this kernel's Landlock does not scope signals")

NEW_NAMESPACE = 0x10000000
CLONE = 56 if os.uname().machine == "x86_64" else 220
PTRACE = 101 if os.uname().machine == "x86_64" else 117
IO_URING_SETUP = 425


def in_child(confine: Callable[[], object], probe: Callable[[], object]) -> str:
    """What a probe does in a process that has been confined: `done` or the name of the error."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "done"
        try:
            confine()
            result = probe()
            if isinstance(result, int) and result < 0:
                outcome = errno.errorcode[-result]
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
        except BaseException as error:
            outcome = repr(error)
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        outcome = answer.read().decode()
    _, status = os.waitpid(pid, 0)
    return outcome or f"ended by {status}"


def state_folder(tmp_path: Path) -> Path:
    for name in ("workload", "files/input", "files/data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "workload/file").write_text("w")
    (tmp_path / "files/input/file").write_text("i")
    (tmp_path / "beside").write_text("b")
    return tmp_path


def fork_and_exit() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "probe",
    [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: syscall(CLONE, NEW_NAMESPACE | signal.SIGCHLD, 0, 0, 0, 0),
        lambda: syscall(PTRACE, 0, 0, 0, 0),
        lambda: syscall(IO_URING_SETUP, 1, 0),
        lambda: os.setns(0) if hasattr(os, "setns") else -errno.EPERM,
        lambda: os.chroot("/"),
    ],
    ids=["inet-socket", "unix-socket", "exec", "namespace", "ptrace", "io_uring", "setns", "chroot"],
)
def test_a_runner_makes_no_sockets_programs_or_namespaces(tmp_path: Path, probe: Callable[[], object]) -> None:
    state = state_folder(tmp_path)
    assert in_child(lambda: confine_runner(state), probe) == "EPERM"


def test_a_runner_still_forks_kills_and_talks_over_a_pair_of_sockets(tmp_path: Path) -> None:
    state = state_folder(tmp_path)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fork_and_kill() -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert in_child(lambda: confine_runner(state), fork_and_kill) == "done"
    assert in_child(lambda: confine_runner(state), lambda: socket.send_fds(theirs, [b"x"], [0])) == "done"
    assert ours.recv(1) == b"x"
    ours.close()
    theirs.close()


@needs_landlock
def test_a_runner_reads_the_workload_and_the_areas_and_no_other_files(tmp_path: Path) -> None:
    state = state_folder(tmp_path)

    def outcome(path: str, flags: int) -> str:
        return in_child(lambda: confine_runner(state), lambda: os.open(path, flags, 0o600))

    assert outcome("/etc/passwd", os.O_RDONLY) == "EACCES"
    assert outcome(f"/proc/{os.getpid()}/environ", os.O_RDONLY) == "EACCES"
    assert outcome(f"{state}/beside", os.O_RDONLY) == "EACCES"
    assert outcome(f"{state}/workload/file", os.O_RDONLY) == "done"
    assert outcome(f"{state}/workload/file", os.O_WRONLY) == "EACCES"
    assert outcome(f"{state}/files/data/new", os.O_WRONLY | os.O_CREAT) == "done"


@needs_landlock
def test_a_run_reaches_its_folders_only_and_writes_where_it_may(tmp_path: Path) -> None:
    state = state_folder(tmp_path)

    def confine() -> None:
        folders = [os.open(state / "files" / name, os.O_PATH | os.O_DIRECTORY) for name in ("input", "data")]
        confine_runner(state)
        confine_to_folders(map(landlock.Rule, folders, (landlock.READ, landlock.WRITE)))

    def outcome(path: str, flags: int) -> str:
        return in_child(confine, lambda: os.open(f"{state}/{path}", flags, 0o600))

    assert outcome("workload/file", os.O_RDONLY) == "EACCES"
    assert outcome("files/input/file", os.O_RDONLY) == "done"
    assert outcome("files/input/file", os.O_RDWR) == "EACCES"
    assert outcome("files/input/new", os.O_WRONLY | os.O_CREAT) == "EACCES"
    assert outcome("files/data/new", os.O_WRONLY | os.O_CREAT) == "done"


def test_a_run_starts_threads_but_no_processes(tmp_path: Path) -> None:
    state = state_folder(tmp_path)

    def confine() -> None:
        confine_runner(state)
        confine_to_itself()

    assert in_child(confine, start_thread) == "done"
    assert in_child(confine, fork_and_exit) == "EPERM"


@pytest.mark.parametrize("number", [signal.SIGKILL, 0])
def test_a_run_signals_no_other_process(tmp_path: Path, number: int) -> None:
    state = state_folder(tmp_path)
    server = os.getpid()
    tgkill = 234 if os.uname().machine == "x86_64" else 131

    def confine() -> None:
        confine_runner(state)
        confine_to_itself()

    assert in_child(confine, lambda: os.kill(server, number)) == "EPERM"
    assert in_child(confine, lambda: syscall(tgkill, server, server, number)) == "EPERM"
    assert in_child(confine, lambda: os.pidfd_open(server)) == "EPERM"


def test_a_run_may_abort_itself(tmp_path: Path) -> None:
    state = state_folder(tmp_path)

    def confine() -> None:
        confine_runner(state)
        confine_to_itself()

    def abort() -> None:
        faulthandler.disable()  # pytest's, which would write a traceback into the report
        os.abort()

    assert in_child(confine, abort) == f"ended by {int(signal.SIGABRT)}"


@needs_signal_scope
def test_a_runner_signals_only_its_children(tmp_path: Path) -> None:
    state = state_folder(tmp_path)
    server = os.getpid()
    assert in_child(lambda: confine_runner(state), lambda: os.kill(server, signal.SIGKILL)) == "EPERM"


def test_the_facts_are_tried_out_and_not_assumed(tmp_path: Path) -> None:
    state = state_folder(tmp_path)

    def all_hold() -> None:
        facts = confine_runner(state)
        expected = {"runner-no-new-privileges": True, "runner-landlock": landlock.abi() > 0, "runner-seccomp": True}
        assert {fact.name: fact.holds for fact in facts} == expected

    # The version must be asked for before the process is confined, hence not in the probe.
    assert in_child(all_hold, lambda: None) == "done"


def test_calls_by_the_numbers_of_another_abi_are_refused() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has a second architecture at hand")
    from app_loader import seccomp

    # getpid by the x32 ABI, whose numbers would pass a filter that compares native ones.
    assert in_child(lambda: seccomp.install(seccomp.runner_filter()), lambda: syscall(0x40000000 | 39)) == "EPERM"


def test_the_library_wrapper_reports_errors_as_negative_numbers() -> None:
    assert syscall(-1) == -errno.ENOSYS
    assert ctypes.get_errno() in {0, errno.ENOSYS}
