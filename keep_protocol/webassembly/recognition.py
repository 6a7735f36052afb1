"""Tells what a binary is, what it wants and what it offers, and for which reasons a keep refuses it."""

from __future__ import annotations

from dataclasses import dataclass

from keep_protocol.keep_api import WorkloadExport, WorkloadImport
from keep_protocol.states import WasmFeature, WorkloadKind
from keep_protocol.webassembly import header, wasi
from keep_protocol.webassembly.components import ComponentOutline, read_component
from keep_protocol.webassembly.core_types import FunctionType
from keep_protocol.webassembly.errors import MalformedError
from keep_protocol.webassembly.features import impossible_features, known_features
from keep_protocol.webassembly.modules import Export, Import, ModuleOutline, read_module

_MAX_NAMED = 20
_MAX_NAME = 100

_ENTRIES = ("", "_start")
"""The export that a run calls, in this order."""

_PREVIEW0 = "wasi_unstable"


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a binary is. It is loaded unless there are `refusals`; `remarks` say what will not work all the same."""

    kind: WorkloadKind
    imports: tuple[WorkloadImport, ...]
    exports: tuple[WorkloadExport, ...]
    refusals: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    features: tuple[WasmFeature, ...] = ()
    """What its declarations need to be switched on. Single instructions may need more."""


def recognize(wasm: bytes | bytearray) -> Recognition:
    """Raises `MalformedError`."""
    if reason := header.refusal(bytes(wasm[: header.HEADER_SIZE])):
        raise MalformedError(reason)
    if header.is_component(wasm):
        return _component(read_component(wasm))
    return _module(read_module(wasm))


def _module(outline: ModuleOutline) -> Recognition:
    missing = [wanted for wanted in outline.imports if not _given(wanted)]
    functions = [export for export in outline.exports if export.kind == "func"]
    entry = _entry(functions)
    kind = WorkloadKind.MODULE
    if entry is not None:
        kind = WorkloadKind.COMMAND
    elif any(export.name == "_initialize" and export.function == FunctionType((), ()) for export in functions):
        kind = WorkloadKind.REACTOR
    refusals = _module_refusals(missing) + impossible_features(outline.features)
    if entry is None and not any(export.name != "_initialize" for export in functions):
        offered = _listed([repr(export.name) for export in outline.exports]) or "nothing"
        refusals.append(
            f"there is nothing to run or to call: it exports {offered}. "
            "A command exports a function `_start` without parameters, a library exports functions"
        )
    return Recognition(
        kind,
        tuple(WorkloadImport(f"{each.module}.{each.name}", _type(each), _given(each)) for each in outline.imports),
        tuple(WorkloadExport(each.name, _type(each)) for each in outline.exports),
        tuple(refusals),
        _preview1_remarks(outline),
        known_features(outline.features),
    )


def _entry(functions: list[Export]) -> str | None:
    for name in _ENTRIES:
        for export in functions:
            if export.name == name and export.function is not None and _is_entry(export.function):
                return name
    return None


def _is_entry(function: FunctionType) -> bool:
    return not function.parameters and len(function.results) <= 1


def _given(wanted: Import) -> bool:
    return (
        wanted.module == wasi.PREVIEW1
        and wanted.kind == "func"
        and wasi.PREVIEW1_FUNCTIONS.get(wanted.name) == wanted.function
    )


def _module_refusals(missing: list[Import]) -> list[str]:
    refusals = []
    wrong = [each for each in missing if each.module == wasi.PREVIEW1 and each.name in wasi.PREVIEW1_FUNCTIONS]
    if wrong:
        found = _listed([f"{each.name} as {_type(each)}" for each in wrong])
        refusals.append(f"its imports do not fit WASI preview 1: {found}")
    unknown = [each for each in missing if each not in wrong]
    if unknown:
        refusals.append(
            f"a keep does not have these imports: {_listed([f'{each.module}.{each.name}' for each in unknown])}; "
            f"it offers WASI preview 1 as `{wasi.PREVIEW1}`"
        )
    if any(each.module == _PREVIEW0 for each in unknown):
        refusals.append("`wasi_unstable` is WASI preview 0, of 2019: build it again for wasm32-wasip1")
    if any(each.module.startswith("wasi:") for each in unknown):
        refusals.append(
            "`wasi:…` are imports of WASI 0.2: this is the core module of a component; make the component of it, "
            "for instance with `wasm-tools component new`"
        )
    return refusals


def _preview1_remarks(outline: ModuleOutline) -> tuple[str, ...]:
    sockets = [each.name for each in outline.imports if _given(each) and each.name in wasi.PREVIEW1_SOCKETS]
    return (f"{_listed(sockets)}: only for sockets that the configuration names in `files`",) if sockets else ()


def _component(outline: ComponentOutline) -> Recognition:
    kind, refusals = _world(outline)
    serves_http = kind is WorkloadKind.HTTP_PROXY
    offered = wasi.INTERFACES | wasi.HTTP_INTERFACES if serves_http else wasi.INTERFACES
    imports = []
    missing = []
    versions = []
    for each in outline.imports:
        interface, version = wasi.split_version(each.name)
        known = each.kind == "instance" and interface in offered
        # Types at the outermost level stand for parts of interfaces that are imported too.
        given = (known and wasi.is_supported(version)) or each.kind == "type"
        imports.append(WorkloadImport(each.name, each.kind, given))
        if known and not given:
            versions.append(each.name)
        elif not given:
            missing.append(each.name)
    if versions:
        refusals.append(
            f"of the wrong version are {_listed(versions)}: a keep offers WASI 0.2.0 to 0.2.x, no snapshots"
        )
    if missing:
        without = "" if serves_http else ", and wasi:http to components that export wasi:http/incoming-handler"
        refusals.append(f"a keep does not have these imports: {_listed(missing)}; it offers WASI 0.2{without}")
    refusals += impossible_features(outline.features)
    if not outline.exports:
        refusals.append("there is nothing to run or to call: it exports nothing")
    return Recognition(
        kind,
        tuple(imports),
        tuple(WorkloadExport(each.name, each.kind) for each in outline.exports),
        tuple(refusals),
        _component_remarks(outline),
        known_features(outline.features),
    )


def _world(outline: ComponentOutline) -> tuple[WorkloadKind, list[str]]:
    """What kind of component it is by its exports, and what is wrong with that."""
    refusals = []
    kind = WorkloadKind.COMPONENT
    for each in outline.exports:
        interface, version = wasi.split_version(each.name)
        if interface not in {wasi.COMMAND, wasi.PROXY}:
            continue
        if interface == wasi.COMMAND:
            kind = WorkloadKind.COMPONENT_COMMAND
        elif kind is WorkloadKind.COMPONENT:
            kind = WorkloadKind.HTTP_PROXY
        if not wasi.is_supported(version):
            refusals.append(f"it exports {each.name[:_MAX_NAME]}: a keep runs WASI 0.2.0 to 0.2.x")
    return kind, refusals


def _component_remarks(outline: ComponentOutline) -> tuple[str, ...]:
    sockets = [each.name for each in outline.imports if each.name.startswith(wasi.SOCKETS)]
    if not sockets:
        return ()
    instead = "modules for WASI preview 1 have those that `files` names"
    return (f"{_listed(sockets)}: components have no sockets in a keep, so every one is refused; {instead}",)


def _type(item: Import | Export) -> str:
    return item.kind if item.function is None else str(item.function)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(name[:_MAX_NAME] for name in names[:_MAX_NAMED]) + more
