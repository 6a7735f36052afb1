"""The parent of a keep, or of its broker, where no systemd can run: starts, holds descriptors, restarts, reports.

It promises no limits, no sandbox and no survival of itself: its death takes its child along.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keep_protocol.detached import MAX_MESSAGE, DetachedCommand, DetachedStatus, LoaderFile, start_time
from keep_protocol.names import is_machine_instance

_RESTART_DELAY = 0.2
_START_LIMIT_BURST = 5
_START_LIMIT_INTERVAL = 60.0
_START_TIMEOUT = 30.0
_MACHINE_START_TIMEOUT = 180.0
"""As TimeoutStartSec= of keep-vm@.service."""
_STOP_TIMEOUT = 10.0
_WATCHDOG = 30.0
_MAX_STORED = 4
_PR_SET_PDEATHSIG = 1
_EX_CONFIG = 78
"""As RestartPreventExitStatus= of `keep-net@.service`."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started: `python -m MODULE INSTANCE` with this environment."""

    module: str
    environment: Mapping[str, str]
    start_limit: int | None = None
    """Starts within `_START_LIMIT_INTERVAL`, after which it is given up."""
    done: int | None = None
    """The exit status with which it has ended because it was meant to."""
    hopeless: int | None = None
    """The exit status after which it is not started again."""


class DetachedLoader:
    """One child process and what systemd would do for it."""

    def __init__(self, *, instance: str, folder: Path, program: Program) -> None:
        self._instance = instance
        self._folder = folder
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None
        self._invocation = ""
        self._stored: dict[str, int] = {}
        self._restarts = 0
        self._starts: list[float] = []
        self._active, self._sub, self._result = "activating", "start", "success"
        self._stopping = False
        self._deadline: float | None = None
        self._managers: dict[int, socket.socket] = {}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.bind(str(folder / "notify"))
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._control.bind(str(folder / "control.sock"))
        self._control.listen(8)
        # Python's own handler wakes the poll below through this pair.
        self._wake, wake_end = socket.socketpair()
        wake_end.setblocking(False)
        self._wake_end = wake_end
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def run(self) -> int:
        """Until the keep has been stopped; a keep that failed stays `failed` until then."""
        self._publish_identity()
        self._spawn()
        poll = select.poll()
        for source in (self._notify, self._control, self._wake):
            poll.register(source, select.POLLIN)
        while True:
            timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000
            for descriptor, _ in poll.poll(timeout):
                if descriptor == self._notify.fileno():
                    self._receive_notification()
                elif descriptor == self._control.fileno():
                    connection, _ = self._control.accept()
                    self._managers[connection.fileno()] = connection
                    poll.register(connection, select.POLLIN)
                    self._tell(connection)
                elif descriptor == self._wake.fileno():
                    if {signal.SIGTERM, signal.SIGINT} & set(self._wake.recv(256)):
                        self._stop()
                elif not self._receive_command(self._managers[descriptor]):
                    poll.unregister(descriptor)
                    self._managers.pop(descriptor).close()
            self._reap()
            self._act_on_deadline()
            if self._stopping and self._child is None:
                self._change("inactive", "dead", self._result)
                return 0

    def _publish_identity(self) -> None:
        own = LoaderFile(
            pid=os.getpid(),
            start_time=start_time(Path("/proc/self/stat").read_text()),
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        )
        temporary = self._folder / "loader.json.new"
        temporary.write_bytes(msgspec.json.encode(own))
        temporary.rename(self._folder / "loader.json")

    def _spawn(self) -> None:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < _START_LIMIT_INTERVAL]
        if self._program.start_limit is not None and len(self._starts) >= self._program.start_limit:
            self._deadline = None
            self._change("failed", "failed", "start-limit-hit")
            return
        self._starts.append(now)
        self._invocation = secrets.token_hex(16)
        names = list(self._stored)
        environment = {
            "INVOCATION_ID": self._invocation,
            "NOTIFY_SOCKET": str(self._folder / "notify"),
            "RUNTIME_DIRECTORY": str(self._folder),
            "WATCHDOG_USEC": str(int(_WATCHDOG * 1_000_000)),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._program.environment,
        }
        parent = os.getpid()
        descriptors = [self._stored[name] for name in names]

        def prepare() -> None:
            """Runs between fork and exec: descriptors from 3 on, LISTEN_PID, death with the parent."""
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(70)
            # Above 3 + n first: a descriptor must not be overwritten before it has been moved.
            high = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate(descriptors)]
            for index, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + index, inheritable=True)
                os.close(descriptor)

        # sd_listen_fds(3) compares LISTEN_PID with the reader's pid, which nobody knows before the fork: a shell
        # tells it.
        script = f'export LISTEN_PID=$$ LISTEN_FDS={len(names)} LISTEN_FDNAMES={":".join(names)}; exec "$@"'
        python = [sys.executable, "-I", "-m", self._program.module, self._instance]
        self._child = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *python] if names else python,
            env=environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=prepare,
            close_fds=False,
            start_new_session=True,
            umask=0o077,
        )
        self._deadline = now + (_MACHINE_START_TIMEOUT if is_machine_instance(self._instance) else _START_TIMEOUT)
        self._change("activating", "start", "success")

    def _receive_notification(self) -> None:
        message, descriptors, _, _ = socket.recv_fds(self._notify, 8192, _MAX_STORED)
        assignments = dict(line.partition("=")[::2] for line in message.decode(errors="replace").splitlines())
        name = assignments.get("FDNAME", "")
        for descriptor in descriptors:
            if "FDSTORE" in assignments and len(self._stored) < _MAX_STORED and name not in self._stored:
                self._stored[name] = descriptor
            else:
                os.close(descriptor)
        if "READY" in assignments and self._active == "activating":
            self._deadline = time.monotonic() + _WATCHDOG
            self._change("active", "running", "success")
        if "WATCHDOG" in assignments and self._active == "active":
            self._deadline = time.monotonic() + _WATCHDOG

    def _receive_command(self, connection: socket.socket) -> bool:
        try:
            message = connection.recv(MAX_MESSAGE)
            if message:
                msgspec.json.decode(message, type=DetachedCommand)
                self._stop()
        except (OSError, msgspec.MsgspecError):
            return False
        return bool(message)

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._child is not None:
            self._child.terminate()
            self._deadline = time.monotonic() + _STOP_TIMEOUT
            self._change("deactivating", "stop-sigterm", self._result)

    def _reap(self) -> None:
        if self._child is None or (status := self._child.poll()) is None:
            return
        self._child = None
        if self._stopping or status == self._program.done:
            self._stopping = True
            return
        if self._active == "active" or self._result == "success":
            self._result = "signal" if status < 0 else "exit-code"
        self._restarts += 1
        if status == self._program.hopeless:
            self._deadline = None
            self._change("failed", "failed", self._result)
            return
        self._deadline = time.monotonic() + _RESTART_DELAY
        self._change("activating", "auto-restart", self._result)

    def _act_on_deadline(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        self._deadline = None
        if self._child is None:
            if not self._stopping and self._active == "activating":
                self._spawn()
            return
        self._result = "watchdog" if self._active == "active" else "timeout"
        self._child.kill()

    def _change(self, active: str, sub: str, result: str) -> None:
        self._active, self._sub, self._result = active, sub, result
        for connection in self._managers.values():
            self._tell(connection)

    def _tell(self, connection: socket.socket) -> None:
        status = DetachedStatus(
            active=self._active,
            sub=self._sub,
            result=self._result,
            main_pid=self._child.pid if self._child else 0,
            invocation=self._invocation,
            restarts=self._restarts,
        )
        with contextlib.suppress(OSError):
            connection.send(msgspec.json.encode(status), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def main() -> int:
    """`python -m keep_loader.detached KIND INSTANCE FOLDER BROKER [STATE HOST]`, started by the manager.

    It outlives the manager. `BROKER` is the folder that the keep and its network broker share; of a broker, `KIND` is
    `keep-net`, and there is nothing more.
    """
    kind, instance, folder, broker, *further = sys.argv[1:]
    environment = {"WASMKEEP_BROKER_FOLDER": broker}
    if kind == "keep-net":
        program = Program("keep_net", environment, hopeless=_EX_CONFIG)
    else:
        state, host = further
        environment |= {"STATE_DIRECTORY": state, "WASMKEEP_HOST_FOLDER": host}
        program = Program("keep_loader", environment, start_limit=_START_LIMIT_BURST, done=0)
    if os.fork():
        os._exit(0)
    return DetachedLoader(instance=instance, folder=Path(folder), program=program).run()


if __name__ == "__main__":
    sys.exit(main())
