"""Imports and exports of a core module with their types; WebAssembly core specification 3.0, chapter 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from keep_protocol.states import WasmFeature
from keep_protocol.webassembly.core_types import CoreTypes, FunctionType
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.features import MULTI_MEMORY
from keep_protocol.webassembly.header import HEADER_SIZE
from keep_protocol.webassembly.reading import Reader

T = TypeVar("T")

_KINDS = ("func", "table", "memory", "global", "tag")
_INITIALISED_TABLE = 0x40


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
    """What a module wants and what it offers, in its order; and the names of features that its declarations need."""

    imports: tuple[Import, ...]
    exports: tuple[Export, ...]
    features: frozenset[str] = frozenset()


def read_module(wasm: bytes | bytearray) -> ModuleOutline:
    """The outline of a module whose header has been checked. Raises `MalformedError`."""
    return read_sections(Reader(wasm, HEADER_SIZE))


def read_sections(module: Reader) -> ModuleOutline:
    """The outline of the module whose sections come next. Raises `MalformedError`."""
    core = CoreTypes()
    types: list[FunctionType | None] = []
    functions: list[int] = []
    imports: tuple[Import, ...] = ()
    exports: list[tuple[str, str, int]] = []
    memories = 0
    for identifier, section in module.sections():
        match identifier:
            case 1:  # the type section
                types = core.section(section)
            case 2:  # imports
                imports = tuple(_import(section, core, types, functions) for _ in range(section.count()))
                memories += sum(each.kind == "memory" for each in imports)
            case 3:  # functions
                functions += [section.unsigned() for _ in range(section.count())]
            case 4:  # tables
                _tables(section, core)
            case 5:  # memories
                memories += (count := section.count())
                for _ in range(count):
                    core.limits(section)
            case 7:  # exports
                exports = [_export(section) for _ in range(section.count())]
            case 13:  # tags
                core.features.add(WasmFeature.EXCEPTIONS)
    if memories > 1:
        core.features.add(MULTI_MEMORY)
    named = tuple(
        Export(name, kind, _at(types, _at(functions, index)) if kind == "func" else None)
        for name, kind, index in exports
    )
    return ModuleOutline(imports, named, frozenset(core.features))


def _import(section: Reader, core: CoreTypes, types: list[FunctionType | None], functions: list[int]) -> Import:
    module, name, kind = section.name(), section.name(), _kind(section)
    match kind:
        case "func":
            index = section.unsigned()
            functions.append(index)
            return Import(module, name, kind, _at(types, index))
        case "table":
            core.value_type(section)
            core.limits(section)
        case "memory":
            core.limits(section)
        case "global":
            core.value_type(section)
            section.byte()
        case _:
            core.features.add(WasmFeature.EXCEPTIONS)
            section.byte()
            section.skip_number()
    return Import(module, name, kind)


def _tables(section: Reader, core: CoreTypes) -> None:
    for _ in range(section.count()):
        if section.peek() == _INITIALISED_TABLE:
            # Its first value is an expression of any length, so those behind it are not looked at.
            section.take(2)
            core.value_type(section)
            core.limits(section)
            return
        core.value_type(section)
        core.limits(section)


def _export(section: Reader) -> tuple[str, str, int]:
    return section.name(), _kind(section), section.unsigned()


def _kind(section: Reader) -> str:
    code = section.byte()
    if code >= len(_KINDS):
        raise MalformedError(f"it has an import or export of an unknown kind {code}")
    return _KINDS[code]


def _at(items: list[T], index: int) -> T:
    if index >= len(items):
        raise MalformedError(f"index {index} points behind the last of {len(items)} items")
    return items[index]
