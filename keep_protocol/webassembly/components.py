"""Names of what a component imports and exports; component model, Binary.md."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.features import MULTI_MEMORY
from keep_protocol.webassembly.header import HEADER_SIZE
from keep_protocol.webassembly.modules import read_sections
from keep_protocol.webassembly.reading import Reader

_CORE_MODULE, _COMPONENT, _IMPORTS, _EXPORTS = 1, 4, 10, 11
_KINDS = ("core module", "func", "value", "type", "component", "instance")
_CORE, _VALUE, _TYPE = 0, 2, 3
_WITH_ATTRIBUTES = 2
_RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class Extern:
    """An import or export at the outermost level. `kind` is `func`, `instance`, `type` and so on.

    That of a type which only its host can define is `resource`.
    """

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class ComponentOutline:
    """What a component wants and what it offers, in its order; not what its instances consist of.

    `features` are the names of those that the declarations of its core modules need.
    """

    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]
    features: frozenset[str] = frozenset()


def read_component(wasm: bytes | bytearray) -> ComponentOutline:
    """The outline of a component whose header has been checked. Raises `MalformedError`."""
    imports: list[Extern] = []
    exports: list[Extern] = []
    inner: list[tuple[int, Reader]] = []
    for identifier, section in Reader(wasm, HEADER_SIZE).sections():
        if identifier == _IMPORTS:
            imports += [_import(section) for _ in range(section.count())]
        elif identifier == _EXPORTS:
            exports += [_export(section) for _ in range(section.count())]
        else:
            inner.append((identifier, section))
    return ComponentOutline(tuple(imports), tuple(exports), _features(inner))


def _features(sections: list[tuple[int, Reader]]) -> frozenset[str]:
    """Of all core modules in these sections, also in those of components within."""
    found: set[str] = set()
    while sections:
        identifier, section = sections.pop()
        # What is wrong inside, wasmtime says better.
        with contextlib.suppress(MalformedError):
            if identifier == _CORE_MODULE:
                section.take(HEADER_SIZE)
                found |= read_sections(section).features
            elif identifier == _COMPONENT:
                section.take(HEADER_SIZE)
                sections += section.sections()
    # The adapters between its parts have two memories each, so all components may.
    return frozenset(found - {MULTI_MEMORY})


def _import(section: Reader) -> Extern:
    return Extern(_name(section), _description(section))


def _export(section: Reader) -> Extern:
    name = _name(section)
    kind = _kind(section)
    if kind == _CORE:
        section.byte()
    section.unsigned()
    if section.byte():
        _description(section)
    return Extern(name, _KINDS[kind])


def _name(section: Reader) -> str:
    form = section.byte()
    if form >= _WITH_ATTRIBUTES:
        raise MalformedError(f"it has a name of form {form}, which is newer than WASI 0.2")
    return section.name()


def _kind(section: Reader) -> int:
    kind = section.byte()
    if kind >= len(_KINDS):
        raise MalformedError(f"it has an import or export of an unknown kind {kind}")
    return kind


def _description(section: Reader) -> str:
    """An `externdesc`, of which only the kind is kept."""
    kind = _kind(section)
    if kind == _CORE:
        section.byte()
        section.unsigned()
    elif kind in {_VALUE, _TYPE}:
        # Bounds: equal to an index, or for types any resource and for values a type.
        is_equal = section.byte() == 0
        if kind == _TYPE and not is_equal:
            return _RESOURCE
        section.skip_number()
    else:
        section.unsigned()
    return _KINDS[kind]
