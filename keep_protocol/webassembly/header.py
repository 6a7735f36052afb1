"""What an upload is, told from its first bytes, so that nothing but binary WebAssembly ever reaches the compiler."""

from __future__ import annotations

HEADER_SIZE = 8

_MAGIC = b"\0asm"
MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"


def is_component(wasm: bytes | bytearray) -> bool:
    """Whether these bytes begin like a component."""
    return wasm[:HEADER_SIZE] == COMPONENT


def refusal(head: bytes) -> str | None:
    """Why bytes that begin with `head`, 8 of them if there are as many, are no WebAssembly; None if they may be.

    Wasmtime takes whatever has not this magic for WebAssembly text and parses it, so this comes first.
    """
    if head in (MODULE, COMPONENT):
        return None
    if not head:
        return "the body is empty; send a WebAssembly module or component"
    if head[:4] == _MAGIC:
        version = head[4:].hex(" ") or "nothing"
        expected = "01 00 00 00 (a module) or 0d 00 01 00 (a component)"
        return f"this is WebAssembly of an unknown version: expected {expected} after the magic, found {version}"
    if head.startswith(b"\x7fELF"):
        return (
            "this is an ELF program for Linux, not WebAssembly; compile for the target wasm32-wasip1 or wasm32-wasip2"
        )
    if head.lstrip().startswith((b"(", b";;")):
        return "this is WebAssembly text; translate it to the binary format first, for instance with wat2wasm"
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"BZh")):
        return "this is a compressed file or an archive; send the module itself"
    return f"this is no WebAssembly: a binary begins with 00 61 73 6d, this with {head[:4].hex(' ')}"
