"""Zstandard (RFC 8878) by the system's libzstd: Python has it from 3.14 on, every host with systemd has the library.

Loaded when it is first used. Names and layouts are those of zstd.h, whose API is stable since 1.4.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Final

WINDOW_LOG: Final = 23
"""Log2 of the largest window, 8 MiB: what RFC 9659 allows in HTTP, so that a receiver's memory is bounded."""

_BLOCK: Final = 256 * 1024
_D_WINDOW_LOG_MAX: Final = 100
_C_LEVEL: Final = 100
_C_CHECKSUM: Final = 201
_END: Final = 2
_LEVEL: Final = 9


class ZstdUnavailableError(Exception):
    """This system has no libzstd."""


class ZstdDataError(Exception):
    """The bytes are no Zstandard frames, or want a larger window."""


class _Buffer(ctypes.Structure):
    """`ZSTD_inBuffer` and `ZSTD_outBuffer`."""

    _fields_ = (("data", c_void_p), ("size", c_size_t), ("position", c_size_t))


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise ZstdUnavailableError(f"libzstd cannot be loaded: {error}") from None
    buffer = POINTER(_Buffer)
    for name, result, parameters in (
        ("ZSTD_isError", c_uint, (c_size_t,)),
        ("ZSTD_getErrorName", c_char_p, (c_size_t,)),
        ("ZSTD_createDCtx", c_void_p, ()),
        ("ZSTD_freeDCtx", c_size_t, (c_void_p,)),
        ("ZSTD_DCtx_setParameter", c_size_t, (c_void_p, c_int, c_int)),
        ("ZSTD_decompressStream", c_size_t, (c_void_p, buffer, buffer)),
        ("ZSTD_createCCtx", c_void_p, ()),
        ("ZSTD_freeCCtx", c_size_t, (c_void_p,)),
        ("ZSTD_CCtx_setParameter", c_size_t, (c_void_p, c_int, c_int)),
        ("ZSTD_compressStream2", c_size_t, (c_void_p, buffer, buffer, c_int)),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = parameters
    return library


def available() -> bool:
    """Whether this system can do it."""
    try:
        _library()
    except ZstdUnavailableError:
        return False
    return True


class Decompressor:
    """Frames one after the other. Close it. Raises `ZstdUnavailableError`."""

    def __init__(self) -> None:
        self._context = _library().ZSTD_createDCtx()
        _checked(_library().ZSTD_DCtx_setParameter(self._context, _D_WINDOW_LOG_MAX, WINDOW_LOG))
        self._wanted = 1
        """0 at the end of a frame."""

    @property
    def complete(self) -> bool:
        """Whether a frame has ended, and no other begun."""
        return self._wanted == 0

    def decompress(self, content: bytes) -> Iterator[bytes]:
        """What `content` makes known, in pieces of bounded size. Raises `ZstdDataError`."""
        source = ctypes.create_string_buffer(content, len(content))
        target = ctypes.create_string_buffer(_BLOCK)
        given = _Buffer(ctypes.cast(source, c_void_p), len(content), 0)
        full = False
        while given.position < given.size or full:
            got = _Buffer(ctypes.cast(target, c_void_p), _BLOCK, 0)
            self._wanted = _checked(_library().ZSTD_decompressStream(self._context, byref(got), byref(given)))
            full = got.position == _BLOCK
            if got.position:
                yield ctypes.string_at(target, got.position)

    def close(self) -> None:
        """Free it."""
        _library().ZSTD_freeDCtx(self._context)


def compress(content: bytes) -> bytes:
    """One frame with a checksum. Raises `ZstdUnavailableError`."""
    library = _library()
    context = library.ZSTD_createCCtx()
    try:
        _checked(library.ZSTD_CCtx_setParameter(context, _C_LEVEL, _LEVEL))
        _checked(library.ZSTD_CCtx_setParameter(context, _C_CHECKSUM, 1))
        source = ctypes.create_string_buffer(content, len(content))
        given = _Buffer(ctypes.cast(source, c_void_p), len(content), 0)
        target = ctypes.create_string_buffer(_BLOCK)
        compressed = bytearray()
        left = 1
        while left:
            got = _Buffer(ctypes.cast(target, c_void_p), _BLOCK, 0)
            left = _checked(library.ZSTD_compressStream2(context, byref(got), byref(given), _END))
            compressed += ctypes.string_at(target, got.position)
        return bytes(compressed)
    finally:
        library.ZSTD_freeCCtx(context)


def _checked(result: int) -> int:
    if _library().ZSTD_isError(result):
        raise ZstdDataError(_library().ZSTD_getErrorName(result).decode())
    return result
