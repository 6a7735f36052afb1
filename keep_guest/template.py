"""A machine that is a template: it has imported everything and is nobody; and how a clone of it becomes itself.

All clones begin with the template's memory. What must not be the same in two of them is made anew before anything else
happens: the kernel's random numbers, OpenSSL's, Python's, and the time. What stays the same is where code and data lie,
and the key of Python's hashes.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Final

from keep_guest import machine
from keep_guest.control import Control
from keep_guest.rehearsal import rehearse
from keep_protocol.guest_control import Awake, GuestConfiguration, Prepared, decode_wake

_MODULES: Final = ("app_loader.main", "keep_guest.binding", "keep_guest.network")
"""What init and the keep's process import when there is a configuration."""

_RNDADDENTROPY: Final = 0x40085203
"""random(4): mixes bytes into the kernel's pool, and says how many bits they are worth."""
_RNDRESEEDCRNG: Final = 0x5207
"""random(4): the kernel's generators are keyed anew, from the pool and at once."""
_POOL_INFO: Final = struct.Struct("ii")


def await_waking(control: Control) -> GuestConfiguration:
    """Get ready, say so, and wait, however long: what the host says next, it says to a clone.

    Raises `GuestControlError`, `GuestError` or `OSError`.
    """
    get_ready()
    control.send(Prepared())
    control.flush()
    wake, entropy = decode_wake(control.await_line())
    freshen(entropy, wake.clock)
    control.send(Awake())
    return wake.configuration


def get_ready() -> None:
    """All of a keep's start that is the same for every keep. Raises `OSError` or `GuestError`."""
    for module in _MODULES:
        importlib.import_module(module)
    rehearse()
    machine.make_group()
    machine.release_disk()
    gc.collect()


def freshen(entropy: bytes, clock: int, device: Path = Path("/dev/urandom")) -> None:
    """Make anew what clones must not share. `clock` is nanoseconds since 1970. Raises `OSError`."""
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _RNDADDENTROPY, _POOL_INFO.pack(8 * len(entropy), len(entropy)) + entropy)
        fcntl.ioctl(descriptor, _RNDRESEEDCRNG)
    finally:
        os.close(descriptor)
    # OpenSSL's generators take a new seed from the kernel with it, those of threads when they are next asked.
    ssl.RAND_add(os.urandom(len(entropy)), float(len(entropy)))
    if (random := sys.modules.get("random")) is not None:
        random.seed()
    time.clock_settime_ns(time.CLOCK_REALTIME, clock)
