"""A linker for one component: wasmtime's WASI 0.2, with our own in place of all that has to do with streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ctypes import byref, c_size_t, c_void_p, string_at
from typing import Any

from app_loader.component_binding import ITEM_FUNCTION, ITEM_INSTANCE, Item
from app_loader.component_program import ComponentLinker
from app_loader.engine import Engine
from app_loader.wasi_http import io_interfaces, outgoing_interface, types_interface
from app_loader.wasi_http.binding import resource_library
from app_loader.wasi_http.functions import Interface, callback, destructor, refusing
from app_loader.wasi_http.host import Host
from app_loader.wasmtime_binding import check
from keep_protocol.webassembly import wasi

_ITEM_RESOURCE = 4
"""`wasmtime_component_item_kind_t`."""

_INTERFACES = {
    each.name: each for each in (*io_interfaces.INTERFACES, types_interface.TYPES, outgoing_interface.OUTGOING_HANDLER)
}
_PACKAGES_WITH_STREAMS = ("wasi:io/", "wasi:http/", "wasi:filesystem/", "wasi:sockets/")
_INTERFACES_WITH_STREAMS = frozenset(
    {"wasi:cli/stdin", "wasi:cli/stdout", "wasi:cli/stderr", "wasi:clocks/monotonic-clock"}
)


class HttpLinker(ComponentLinker):
    """Links one component that answers HTTP requests; `host` is what its functions work on."""

    def __init__(self, engine: Engine, component: int) -> None:
        super().__init__(engine)
        self.host = Host()
        self._kept: list[Any] = []
        """ctypes callbacks live as long as they are referenced."""
        self._destructor = destructor(self.host)
        wasmtime = resource_library()
        root = wasmtime.wasmtime_component_linker_root(self.pointer)
        try:
            for name, parts in _instances(engine.pointer, component):
                interface, _ = wasi.split_version(name)
                if interface.startswith(_PACKAGES_WITH_STREAMS) or interface in _INTERFACES_WITH_STREAMS:
                    self._define(root, name, _INTERFACES.get(interface) or Interface(interface), parts)
        finally:
            wasmtime.wasmtime_component_linker_instance_delete(root)

    def _define(self, root: int, name: str, interface: Interface, parts: Iterable[tuple[str, int]]) -> None:
        """Define all that the component imports of one interface, under exactly the version that it names."""
        wasmtime = resource_library()
        instance = c_void_p()
        encoded = name.encode()
        check(wasmtime.wasmtime_component_linker_instance_add_instance(root, encoded, len(encoded), byref(instance)))
        try:
            for part, kind in parts:
                if kind == _ITEM_RESOURCE:
                    self._define_resource(instance, interface, part)
                elif kind == ITEM_FUNCTION:
                    self._define_function(instance, interface, part)
        finally:
            wasmtime.wasmtime_component_linker_instance_delete(instance)

    def _define_resource(self, instance: c_void_p, interface: Interface, name: str) -> None:
        # Resources of other interfaces are listed too, and must not be defined twice.
        if (known := interface.resources.get(name)) is None:
            return
        wasmtime = resource_library()
        kind = wasmtime.wasmtime_component_resource_type_new_host(known.type_number())
        encoded = name.encode()
        try:
            check(
                wasmtime.wasmtime_component_linker_instance_add_resource(
                    instance, encoded, len(encoded), kind, self._destructor, None, None
                )
            )
        finally:
            wasmtime.wasmtime_component_resource_type_delete(kind)

    def _define_function(self, instance: c_void_p, interface: Interface, name: str) -> None:
        known = interface.functions.get(name)
        function = refusing(self.host, f"{interface.name}#{name}") if known is None else callback(self.host, known)
        self._kept.append(function)
        encoded = name.encode()
        check(
            resource_library().wasmtime_component_linker_instance_add_func(
                instance, encoded, len(encoded), function, None, None
            )
        )


def _instances(engine: int, component: int) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """The instances that a component imports, each with its parts and their kinds."""
    wasmtime = resource_library()
    described = wasmtime.wasmtime_component_type(component)
    try:
        for name, item in _items("wasmtime_component_type_import", described, engine):
            if item.kind == ITEM_INSTANCE:
                parts = _items("wasmtime_component_instance_type_export", item.of, engine)
                yield name, [(part, inner.kind) for part, inner in parts]
    finally:
        wasmtime.wasmtime_component_type_delete(described)


def _items(prefix: str, owner: int, engine: int) -> Iterator[tuple[str, Item]]:
    wasmtime = resource_library()
    nth = getattr(wasmtime, f"{prefix}_nth")
    for index in range(getattr(wasmtime, f"{prefix}_count")(owner, engine)):
        extern, name, size = c_void_p(), c_void_p(), c_size_t()
        if not nth(owner, engine, index, byref(name), byref(size), byref(extern)):
            return
        spelled = string_at(name, size.value).decode()
        item = Item()
        wasmtime.wasmtime_component_extern_type(extern, byref(item))
        wasmtime.wasmtime_component_extern_delete(extern)
        try:
            yield spelled, item
        finally:
            wasmtime.wasmtime_component_item_delete(byref(item))
