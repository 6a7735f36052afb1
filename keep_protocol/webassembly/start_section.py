"""Turns a module's start function into an export, so that it can be called once everything around it is in place.

A start function runs while its module is instantiated: before anybody has the module's memory, on which WASI works.
"""

from __future__ import annotations

from typing import Final

from keep_protocol.webassembly.header import HEADER_SIZE
from keep_protocol.webassembly.reading import Reader

START_EXPORT: Final = "wasmkeep:start"

_CUSTOM: Final = 0
_EXPORT: Final = 7
_START: Final = 8
_BEFORE_EXPORTS: Final = frozenset({1, 2, 3, 4, 5, 6, 13})
"""Types, imports, functions, tables, memories, globals, tags: core specification 3.0, section 5.5.2."""


def export_start(wasm: bytearray) -> bytearray:
    """The module with its start function as the export `START_EXPORT`; the same object if it has none.

    Offsets behind the exports grow by some 20 bytes. Raises `MalformedError`.
    """
    sections = [(identifier, part.take(part.remaining)) for identifier, part in Reader(wasm, HEADER_SIZE).sections()]
    start = next((content for identifier, content in sections if identifier == _START), None)
    if start is None:
        return wasm
    name = START_EXPORT.encode()
    entry = _number(len(name)) + name + b"\0" + _number(Reader(start).unsigned())
    if not any(identifier == _EXPORT for identifier, _ in sections):
        sections.insert(_place_of_exports(sections), (_EXPORT, _number(0)))
    changed = bytearray(wasm[:HEADER_SIZE])
    for identifier, content in sections:
        if identifier == _EXPORT:
            exports = Reader(content)
            count = exports.unsigned()
            content = _number(count + 1) + content[exports.position :] + entry
        if identifier != _START:
            changed += bytes((identifier,)) + _number(len(content)) + content
    return changed


def _place_of_exports(sections: list[tuple[int, bytes]]) -> int:
    return next(
        (
            index
            for index, (identifier, _) in enumerate(sections)
            if identifier != _CUSTOM and identifier not in _BEFORE_EXPORTS
        ),
        len(sections),
    )


def _number(value: int) -> bytes:
    """Unsigned LEB128."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
