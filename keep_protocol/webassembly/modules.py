"""Imports and exports of a core module with their types; WebAssembly core specification 3.0, chapter 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.reading import Reader

T = TypeVar("T")

_FUNCTION_TYPE = 0x60

_VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
    0x69: "exnref",
}
_REFERENCES = frozenset({0x63, 0x64})
_KINDS = ("func", "table", "memory", "global", "tag")


@dataclass(frozen=True, slots=True)
class FunctionType:
    """Value types by their names in the text format."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        taken = f"func({', '.join(self.parameters)})"
        match self.results:
            case ():
                return taken
            case (one,):
                return f"{taken} -> {one}"
            case many:
                return f"{taken} -> ({', '.join(many)})"


@dataclass(frozen=True, slots=True)
class Import:
    """`kind` is `func`, `table`, `memory`, `global` or `tag`; `function` is the type of a function."""

    module: str
    name: str
    kind: str
    function: FunctionType | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """`kind` is as with `Import`."""

    name: str
    kind: str
    function: FunctionType | None = None


@dataclass(frozen=True, slots=True)
class ModuleOutline:
    """What a module wants and what it offers, in its order."""

    imports: tuple[Import, ...]
    exports: tuple[Export, ...]


def read_module(wasm: bytes | bytearray) -> ModuleOutline:
    """The outline of a module whose header has been checked. Raises `MalformedError`."""
    types: list[FunctionType] = []
    functions: list[int] = []
    imports: tuple[Import, ...] = ()
    exports: list[tuple[str, str, int]] = []
    for identifier, section in Reader(wasm, 8).sections():
        match identifier:
            case 1:  # the type section
                types = [_function_type(section) for _ in range(section.count())]
            case 2:  # imports
                imports = tuple(_import(section, types, functions) for _ in range(section.count()))
            case 3:  # functions
                functions += [section.unsigned() for _ in range(section.count())]
            case 7:  # exports
                exports = [_export(section) for _ in range(section.count())]
    named = tuple(
        Export(name, kind, _at(types, _at(functions, index)) if kind == "func" else None)
        for name, kind, index in exports
    )
    return ModuleOutline(imports, named)


def _function_type(section: Reader) -> FunctionType:
    form = section.byte()
    if form != _FUNCTION_TYPE:
        raise MalformedError(f"it declares a type of form {form:#04x}; a keep knows function types only, no GC types")
    parameters = tuple(_value_type(section) for _ in range(section.count()))
    return FunctionType(parameters, tuple(_value_type(section) for _ in range(section.count())))


def _value_type(section: Reader) -> str:
    code = section.byte()
    if code in _REFERENCES:
        section.skip_number()
        return "ref"
    if (name := _VALUE_TYPES.get(code)) is None:
        raise MalformedError(f"it has an unknown value type {code:#04x}")
    return name


def _import(section: Reader, types: list[FunctionType], functions: list[int]) -> Import:
    module, name, kind = section.name(), section.name(), _kind(section)
    match kind:
        case "func":
            index = section.unsigned()
            functions.append(index)
            return Import(module, name, kind, _at(types, index))
        case "table":
            _value_type(section)
            _skip_limits(section)
        case "memory":
            _skip_limits(section)
        case "global":
            _value_type(section)
            section.byte()
        case _:
            section.byte()
            section.skip_number()
    return Import(module, name, kind)


def _export(section: Reader) -> tuple[str, str, int]:
    return section.name(), _kind(section), section.unsigned()


def _kind(section: Reader) -> str:
    code = section.byte()
    if code >= len(_KINDS):
        raise MalformedError(f"it has an import or export of an unknown kind {code}")
    return _KINDS[code]


def _skip_limits(section: Reader) -> None:
    flags = section.byte()
    # Bit 0: there is a maximum; bit 3: there is a page size of its own.
    for _ in range(1 + (flags & 1) + (flags >> 3 & 1)):
        section.skip_number()


def _at(items: list[T], index: int) -> T:
    if index >= len(items):
        raise MalformedError(f"index {index} points behind the last of {len(items)} items")
    return items[index]
