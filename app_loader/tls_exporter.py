"""The TLS exporter (RFC 8446, 7.5) of a connection of Python's `ssl`, which has none itself.

The pointer to OpenSSL's connection is read from CPython's object. pyOpenSSL would do the same from outside, and cost
every keep that emits evidence 30 ms of its start and 12 MiB.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from typing import Final

from app_loader.errors import ExporterError

_HEADER: Final = object.__basicsize__
"""Bytes of PyObject_HEAD: a reference count and a type, on builds with a GIL."""
_CONNECTION: Final = _HEADER + ctypes.sizeof(c_void_p)
_CONTEXT: Final = _CONNECTION + ctypes.sizeof(c_void_p)
"""PySSLSocket in CPython's Modules/_ssl.c since 3.7: {PyObject_HEAD, Socket, SSL *ssl, PySSLContext *ctx, …}."""

_export = ctypes.CDLL(getattr(_ssl, "__file__", None)).SSL_export_keying_material
_export.restype = c_int
_export.argtypes = (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_char_p, c_size_t, c_int)


def export_keying_material(connection: ssl.SSLObject, label: bytes, context: bytes, size: int) -> bytes:
    """`size` bytes that both ends of `connection`, and nobody else, can compute for `label` and `context`.

    Raises `ExporterError` on an interpreter whose objects are laid out otherwise.
    """
    inner = getattr(connection, "_sslobj", None)
    if type(inner).__name__ != "_SSLSocket":
        raise ExporterError("this is no connection of the ssl module")
    start = id(inner)
    # The context lies right behind the pointer that we want: where it is found, the layout is the known one.
    if c_void_p.from_address(start + _CONTEXT).value != id(connection.context):
        raise ExporterError("this Python lays out TLS connections in a way that is not known here")
    pointer = c_void_p.from_address(start + _CONNECTION).value
    output = ctypes.create_string_buffer(size)
    if not pointer or _export(pointer, output, size, label, len(label), context, len(context), 1) != 1:
        raise ExporterError("OpenSSL exports no keying material of this connection: its handshake is not over")
    return output.raw
