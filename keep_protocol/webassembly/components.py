"""Names of what a component imports and exports; component model, Binary.md."""

from __future__ import annotations

from dataclasses import dataclass

from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.reading import Reader

_IMPORTS, _EXPORTS = 10, 11
_KINDS = ("core module", "func", "value", "type", "component", "instance")
_CORE, _VALUE, _TYPE = 0, 2, 3
_WITH_ATTRIBUTES = 2


@dataclass(frozen=True, slots=True)
class Extern:
    """An import or export at the outermost level. `kind` is `func`, `instance`, `type` and so on."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class ComponentOutline:
    """What a component wants and what it offers, in its order; not what its instances consist of."""

    imports: tuple[Extern, ...]
    exports: tuple[Extern, ...]


def read_component(wasm: bytes | bytearray) -> ComponentOutline:
    """The outline of a component whose header has been checked. Raises `MalformedError`."""
    imports: list[Extern] = []
    exports: list[Extern] = []
    for identifier, section in Reader(wasm, 8).sections():
        if identifier == _IMPORTS:
            imports += [_import(section) for _ in range(section.count())]
        elif identifier == _EXPORTS:
            exports += [_export(section) for _ in range(section.count())]
    return ComponentOutline(tuple(imports), tuple(exports))


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
        if section.byte() == 0 or kind == _VALUE:
            section.skip_number()
    else:
        section.unsigned()
    return _KINDS[kind]
