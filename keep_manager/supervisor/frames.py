"""The frames between the manager and its bus helper: a little-endian length, then msgpack."""

from __future__ import annotations

import struct
from typing import Literal, TypeAlias

import msgspec

Operation: TypeAlias = Literal[
    "ping", "list", "status", "unit_of", "start", "stop", "reset", "revert", "reload", "exit"
]


class BusRequest(msgspec.Struct, frozen=True, array_like=True):
    """One call; `number` comes back with its answer."""

    number: int
    operation: Operation
    unit: str = ""
    pid: int = 0
    limits: dict[str, int] = {}
    """Of a unit that is to start."""


class UnitProperties(msgspec.Struct, frozen=True, array_like=True):
    """What systemd says of the unit of a keep, or of a keep's network broker."""

    template: str
    """`keep` or `keep-net`: what stands before the `@`."""
    instance: str
    active: str
    sub: str
    result: str
    main_pid: int
    invocation: str
    restarts: int
    memory_current: int
    """Bytes; 2^64-1 where no memory controller counts them."""
    cgroup: str


class BusAnswer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """The answer to the request of the same number; `error` is the D-Bus error's name and text."""

    number: int
    text: str = ""
    units: tuple[UnitProperties, ...] = ()
    error: str | None = None


class BusSignal(msgspec.Struct, frozen=True, array_like=True, tag="signal"):
    """A keep unit has changed."""

    unit: UnitProperties


def encode_frame(message: BusRequest | BusAnswer | BusSignal) -> bytes:
    """One frame, length in front."""
    body = msgspec.msgpack.encode(message)
    return struct.pack("<I", len(body)) + body
