"""The workload's own port: open while the configuration names one and the workload answers HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, NamedTuple

from app_loader.dispatch import Dispatcher
from app_loader.errors import AppLoaderError
from app_loader.identity import Identity
from app_loader.keep import Keep
from app_loader.principals import Anybody, Principals
from app_loader.routes import PORT_ROUTES
from app_loader.server import Server
from app_loader.tls import Trust
from keep_protocol.configuration_check import answers_http
from keep_protocol.keep_api import HttpPortStatus

_RETRY_SECONDS: Final = 5.0
"""Between attempts to open a port that cannot be had now."""

_logger = logging.getLogger(__name__)


class _Wanted(NamedTuple):
    port: int
    public: bool


class HttpPort:
    """Follows configuration and workload: whoever changes one of them says so by `follow`."""

    def __init__(self, keep: Keep, identity: Identity, principals: Principals) -> None:
        self._keep = keep
        self._identity = identity
        self._principals = principals
        self._changing = asyncio.Lock()
        self._open: _Wanted | None = None
        self._server: Server | None = None
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._closed = False

    @property
    def status(self) -> HttpPortStatus | None:
        """None while the configuration names no port."""
        http = self._keep.workload_configuration.http
        if http is None or http.port is None:
            return None
        listening = self._open == _Wanted(http.port, http.public)
        problem = None
        if not listening:
            problem = self._problem or "it is opened when a workload is loaded that answers HTTP"
        return HttpPortStatus(http.port, http.public, listening, problem)

    async def follow(self) -> None:
        """Open, close or replace the port as configuration and workload want it now.

        A port that cannot be had now is tried again until it can; `status` says why.
        """
        async with self._changing:
            wanted = None if self._closed else _wanted(self._keep)
            if wanted == self._open:
                return
            await self._shut()
            if wanted is None:
                return
            try:
                listener = await self._keep.network().bind(wanted.port)
            except (AppLoaderError, OSError) as error:
                self._problem = str(error)
                _logger.warning("the workload's port %d cannot be opened: %s", wanted.port, error)
                self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._try_again)
                return
            self._listen(listener, wanted)

    def stop_accepting(self) -> None:
        """No client more; what is being answered goes on."""
        self._closed = True
        if self._server is not None:
            self._server.stop_accepting()

    async def drain(self, seconds: float) -> None:
        """Give responses that are under way so long to end."""
        if self._server is not None:
            await self._server.drain(seconds)

    async def close(self) -> None:
        """End every connection now, and give the port back."""
        self._closed = True
        async with self._changing:
            await self._shut()

    def _listen(self, listener: socket.socket, wanted: _Wanted) -> None:
        visitors = Anybody() if wanted.public else self._principals
        trust = Trust(self._identity, None if wanted.public else self._principals)
        self._server = Server(Dispatcher(self._keep, PORT_ROUTES), trust, visitors)
        self._server.start(listener)
        self._listener, self._open = listener, wanted
        _logger.info("the workload has port %d", wanted.port)

    async def _shut(self) -> None:
        self._problem = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._server is not None:
            await self._server.close()
        if self._listener is not None:
            self._listener.close()
        self._server = self._listener = self._open = None

    def _try_again(self) -> None:
        self._retry = None
        self._retrying = asyncio.get_running_loop().create_task(self.follow())


def _wanted(keep: Keep) -> _Wanted | None:
    http = keep.workload_configuration.http
    if http is None or http.port is None or not answers_http(keep.workload.kind, http):
        return None
    return _Wanted(http.port, http.public)
