"""The machine's virtio-serial ports, by their names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from keep_guest.errors import PortError

_PORTS: Final = Path("/sys/class/virtio-ports")
_SECONDS: Final = 5.0
_PAUSE: Final = 0.01


def open_port(name: str, *, ports: Path = _PORTS, devices: Path = Path("/dev"), seconds: float = _SECONDS) -> int:
    """A non-blocking descriptor of the port of this name. Raises `PortError` when it does not appear."""
    deadline = time.monotonic() + seconds
    # The host's device announces its ports one after another, while init runs already.
    while (device := _find(name, ports)) is None:
        if time.monotonic() > deadline:
            raise PortError(f"the machine has no virtio-serial port {name}")
        time.sleep(_PAUSE)
    return os.open(devices / device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _find(name: str, ports: Path) -> str | None:
    if not ports.is_dir():
        return None
    for port in ports.iterdir():
        try:
            if (port / "name").read_text().strip() == name:
                return port.name
        except OSError:
            continue
    return None
