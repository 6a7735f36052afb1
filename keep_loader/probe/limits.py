"""Checks of what the keep may use."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from keep_loader.probe.results import Check, fact
from keep_protocol.handover import SandboxFact
from keep_protocol.probe import PROBE_CPU_PERCENT, PROBE_MEMORY, PROBE_TASKS, PROBED_MACHINE

_MIB = 1024 * 1024


def _limit_nofile() -> SandboxFact:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    return fact("LimitNOFILE", limit == (4096, 4096), str(limit))


def _limit_core() -> SandboxFact:
    return fact("LimitCORE", resource.getrlimit(resource.RLIMIT_CORE) == (0, 0))


def _limit_memlock() -> SandboxFact:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    expected = resource.RLIM_INFINITY if PROBED_MACHINE in os.environ else 8 * _MIB
    return fact("LimitMEMLOCK", limit == (expected, expected), str(limit))


def _memory_max() -> SandboxFact:
    pid = os.fork()
    if pid == 0:
        Path("/proc/self/oom_score_adj").write_text("1000")
        # Not bytearray(n): calloc's pages are never touched and so never counted.
        block = b"x" * (2 * PROBE_MEMORY)
        os._exit(0 if block else 1)
    _, status = os.waitpid(pid, 0)
    return fact("MemoryMax", os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) != 0, f"status {status}")


def _memory_swap_max() -> SandboxFact:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        file = Path("/sys/fs/cgroup") / path.lstrip("/") / "memory.swap.max"
        if number == "0" and file.exists():
            return fact("MemorySwapMax", file.read_text().strip() == "0", file.read_text().strip())
    return fact("MemorySwapMax", False, "cgroup v1 has no such limit")


def _tasks_max() -> SandboxFact:
    children: list[int] = []
    read_end, write_end = os.pipe()
    try:
        for _ in range(2 * PROBE_TASKS):
            pid = os.fork()
            if pid == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
            children.append(pid)
    except BlockingIOError:
        return fact("TasksMax", True, f"{len(children)} processes more")
    finally:
        os.close(write_end)
        for pid in children:
            os.waitpid(pid, 0)
    return fact("TasksMax", False, f"{len(children)} processes more")


def _cpu_quota() -> SandboxFact:
    started = time.monotonic()
    while time.monotonic() - started < 0.5:
        pass
    # The share of the processor that was had says nothing on a machine under load; having been throttled does.
    throttled = max(_times_throttled(), default=0)
    return fact("CPUQuota", throttled > 0, f"throttled {throttled} times at {PROBE_CPU_PERCENT} %")


def _times_throttled() -> Iterator[int]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"):
            file = Path(mount) / path.lstrip("/") / "cpu.stat"
            if file.exists():
                counters = dict(entry.split() for entry in file.read_text().splitlines())
                yield int(counters.get("nr_throttled", 0))


def _oom_score_adjust() -> SandboxFact:
    return fact("OOMScoreAdjust", Path("/proc/self/oom_score_adj").read_text().strip() == "100")


CHECKS: tuple[Check, ...] = (
    _limit_nofile,
    _limit_core,
    _limit_memlock,
    _oom_score_adjust,
    _memory_max,
    _memory_swap_max,
    _tasks_max,
    _cpu_quota,
)
