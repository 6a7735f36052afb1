"""What an upload is, told from its first bytes, so that nothing but a binary module ever reaches the compiler."""

from __future__ import annotations

HEADER_SIZE = 8

_MODULE = b"\0asm\x01\0\0\0"
_COMPONENT = b"\0asm\x0d\0\x01\0"


def refusal(head: bytes) -> str | None:
    """Why bytes that begin with `head`, 8 of them if there are as many, are no module; None if they may be one.

    Wasmtime takes whatever has not this magic for WebAssembly text and parses it, so this comes first.
    """
    if head == _MODULE:
        return None
    if not head:
        return "the body is empty; send a WebAssembly module, compiled for wasm32-wasip1"
    if head == _COMPONENT:
        return "this is a WebAssembly component; a keep runs core modules for WASI preview 1 (target wasm32-wasip1)"
    if head[:4] == _MODULE[:4]:
        version = head[4:].hex(" ") or "nothing"
        return f"this is WebAssembly of an unknown version: expected 01 00 00 00 after the magic, found {version}"
    if head.startswith(b"\x7fELF"):
        return "this is an ELF program for Linux, not WebAssembly; compile for the target wasm32-wasip1"
    if head.lstrip().startswith((b"(", b";;")):
        return "this is WebAssembly text; translate it to the binary format first, for instance with wat2wasm"
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh")):
        return "this is a compressed file or an archive; send the module itself"
    return f"this is no WebAssembly: a module begins with 00 61 73 6d, this with {head[:4].hex(' ')}"
