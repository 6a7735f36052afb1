"""The processes that the runner forks: all most killable, all dying with it, all reaped and told apart by name."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable
from typing import NoReturn

from app_loader import guest
from app_loader.process_usage import usage_of
from app_loader.runner_messages import Ended

_LESS_THAN_SERVER = 200
"""How much more killable than the server the runner is, in steps of oom_score_adj; proc_pid_oom_score_adj(5)."""
_MOST_KILLABLE = 1000


class _OutOfMemoryOrder:
    """How killable this process is. A child inherits it, for it cannot open /proc any more to change its own."""

    def __init__(self) -> None:
        self.descriptor = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        own = int(os.pread(self.descriptor, 16, 0))
        self._runner = min(own + _LESS_THAN_SERVER, _MOST_KILLABLE)
        self.of_runner()

    def of_child(self) -> None:
        os.pwrite(self.descriptor, str(_MOST_KILLABLE).encode(), 0)

    def of_runner(self) -> None:
        with contextlib.suppress(PermissionError):  # lowering below where it was needs a capability
            os.pwrite(self.descriptor, str(self._runner).encode(), 0)


class Children:
    """Forked processes by name. Made before the runner is confined, as it opens /proc."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._runner = os.getpid()
        self._out_of_memory = _OutOfMemoryOrder()
        self._pids: dict[str, int] = {}
        self._names: dict[int, str | None] = {}
        """By pid; None for a child that nobody wants to hear of any more."""
        self._watched: dict[int, int] = {}
        """Pids, by the descriptor (pidfd) that tells of the end."""

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._watched

    def fork(self, name: str, work: Callable[[], None], private: Iterable[int]) -> int:
        """The pid of a child that does `work`. `private` are the runner's descriptors, which it closes first.

        Raises `OSError`.
        """
        self._out_of_memory.of_child()
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(work, private)
        finally:
            self._out_of_memory.of_runner()
        descriptor = os.pidfd_open(pid)
        self._pids[name] = pid
        self._names[pid] = name
        self._watched[descriptor] = pid
        self._poll.register(descriptor, select.POLLIN)
        return pid

    def rename(self, name: str, new: str) -> int:
        """Let a child be known by another name from now on; its pid."""
        pid = self._pids[new] = self._pids.pop(name)
        self._names[pid] = new
        return pid

    def kill(self, name: str) -> None:
        """SIGKILL, if there is such a child."""
        if pid := self._pids.get(name):
            os.kill(pid, signal.SIGKILL)

    def discard(self, name: str) -> None:
        """SIGKILL, and its end is nobody's business."""
        if pid := self._pids.pop(name, None):
            self._names[pid] = None
            os.kill(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL for every child."""
        for pid in self._names:
            os.kill(pid, signal.SIGKILL)

    def reap(self, descriptor: int) -> Ended | None:
        """How the child ended that this descriptor stands for; None if it was discarded."""
        pid = self._watched.pop(descriptor)
        name = self._names.pop(pid)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status, used = os.wait4(pid, 0)
        if name is None:
            return None
        del self._pids[name]
        code = os.waitstatus_to_exitcode(status)
        usage = usage_of(used)
        return Ended(name, code=code, usage=usage) if code >= 0 else Ended(name, signal=-code, usage=usage)

    def _be_child(self, work: Callable[[], None], private: Iterable[int]) -> NoReturn:
        status = 1
        try:
            # Known ones only: wasmtime keeps the compiled module open for its copy-on-write image, and a child
            # that closes that one hangs or dies.
            for descriptor in (*private, *self._watched, self._out_of_memory.descriptor):
                os.close(descriptor)
            guest.become_child(self._runner)
            work()
            status = 0
        finally:
            os._exit(status)
