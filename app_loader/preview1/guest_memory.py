"""The guest's linear memory, whose every address is checked before it is used: the guest chooses them."""

from __future__ import annotations

import ctypes
import struct
from ctypes import byref
from typing import Final

from app_loader.wasmtime_binding import Extern, library

MAX_BUFFERS: Final = 1024
"""Of one call: IOV_MAX of Linux."""


class OutsideMemoryError(Exception):
    """A pointer of the guest leads out of its memory."""


class TooManyBuffersError(Exception):
    """A call names more buffers than one may."""


class GuestMemory:
    """Looks the memory up for every call: it moves when it grows."""

    def __init__(self, context: int, memory: Extern) -> None:
        self._context = context
        self._extern = memory
        self._item = byref(memory, Extern.item.offset)
        self._data = library().wasmtime_memory_data
        self._size = library().wasmtime_memory_data_size
        self._place = (0, 0)
        self._view = memoryview(b"")

    def view(self) -> memoryview:
        """All of it, for one call of the guest."""
        place = (self._data(self._context, self._item) or 0, self._size(self._context, self._item))
        if place != self._place:
            base, size = place
            self._view = memoryview((ctypes.c_ubyte * size).from_address(base)).cast("B") if size else memoryview(b"")
            self._place = place
        return self._view


def part(view: memoryview, address: int, size: int) -> memoryview:
    """So many bytes from an address on. Raises `OutsideMemoryError`."""
    if address + size > len(view):
        raise OutsideMemoryError
    return view[address : address + size]


def buffers(view: memoryview, address: int, count: int) -> list[memoryview]:
    """The buffers of an array of (address, length), without empty ones.

    Raises `OutsideMemoryError` and `TooManyBuffersError`.
    """
    if count > MAX_BUFFERS:
        raise TooManyBuffersError
    numbers = struct.unpack(f"<{2 * count}I", part(view, address, 8 * count))
    found = [part(view, start, size) for start, size in zip(numbers[::2], numbers[1::2], strict=True)]
    return [each for each in found if each]


def put(view: memoryview, address: int, layout: str, *values: int) -> None:
    """Write numbers in a `struct` layout. Raises `OutsideMemoryError`."""
    part(view, address, struct.calcsize(layout))[:] = struct.pack(layout, *values)
