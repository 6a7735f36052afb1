"""What the figures were measured on, without anything that names the machine; and how busy it is otherwise."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_SYSTEMD = (Path("/usr/lib/systemd/systemd"), Path("/lib/systemd/systemd"))
_QUIET = 0.1
"""Share of all processors that others may use while we wait for silence."""
_GLANCE = 2.0


def describe() -> dict[str, str]:
    """Facts for the report, in its order."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "distribution": _distribution(),
        "systemd": _systemd(),
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "wasmtime-py": version("wasmtime"),
    }


def busy_share(seconds: float = _GLANCE) -> float:
    """How much of all processors was used in that time, by anybody and by other guests of the same host: 0 to 1."""
    before = _processor_times()
    time.sleep(seconds)
    after = _processor_times()
    idle, total = (later - earlier for earlier, later in zip(before, after, strict=True))
    return 1 - idle / total if total else 0.0


def wait_for_silence(patience: float) -> float:
    """Until nobody else computes, for `patience` seconds at most; the share that was in use at last."""
    deadline = time.monotonic() + patience
    while (share := busy_share()) > _QUIET and time.monotonic() < deadline:
        pass
    return share


def _processor_times() -> tuple[int, int]:
    """Ticks of all processors since boot: idle, and all; proc_stat(5)."""
    # Time of guests is counted in user and nice already.
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _systemd() -> str:
    program = next((path for path in _SYSTEMD if path.exists()), None)
    if program is None:
        return "none"
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
