"""A component that answers HTTP requests, as the runner keeps it and its processes instantiate it."""

from __future__ import annotations

from app_loader.component_binding import ComponentValue
from app_loader.component_exports import SEPARATOR
from app_loader.component_program import Component, ComponentProgram, peak_memory
from app_loader.engine import Engine
from app_loader.errors import EngineError
from app_loader.program import Held
from app_loader.runner_messages import Report
from app_loader.wasi_http.host import Host
from app_loader.wasi_http.linking import HttpLinker
from app_loader.wasi_http.types_interface import IncomingRequest, ResponseOutparam
from app_loader.wasi_http.values import Place, fill_owned
from keep_protocol.webassembly import wasi


class HttpProgram(ComponentProgram):
    """Exports `wasi:http/incoming-handler`; its functions can be called too."""

    def __init__(self, engine: Engine, component: Component) -> None:
        linker = HttpLinker(engine, component.pointer)
        super().__init__(engine, linker, component)
        self.host: Host = linker.host
        handlers = (name for name in self._types.names() if wasi.split_version(name)[0] == wasi.PROXY)
        self._handler = next(handlers, None)

    def handle(self, context: int, memory: int, held: Held) -> Report | None:
        """Let an instance answer the request that the host has begun; how it failed, if it did.

        `memory` is its limit in bytes. Raises `EngineError`.
        """
        exchange = self.host.exchange
        if self._handler is None or exchange is None:
            raise EngineError(f"the component does not export {wasi.PROXY}, or there is no request")
        place = Place(context, self.host.resources)
        values = (ComponentValue * 2)()
        fill_owned(place, values[0], IncomingRequest(exchange))
        fill_owned(place, values[1], ResponseOutparam())
        return self._invoke(context, f"{self._handler}{SEPARATOR}handle", values, None, memory, peak_memory(), held)
