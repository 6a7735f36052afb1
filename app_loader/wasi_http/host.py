"""The state behind the host functions of one process: it serves one request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from app_loader.wasi_http.exchange import Exchange
from app_loader.wasi_http.resources import ResourceTable
from app_loader.wasi_http.streams import Pollable, wait

if TYPE_CHECKING:
    from app_loader.wasi_http.outgoing_messages import FutureIncomingResponse, OutgoingRequest, RequestOptions


class Outgoing(Protocol):
    """Where requests of a guest go."""

    def send(self, request: OutgoingRequest, options: RequestOptions) -> FutureIncomingResponse:
        """Begin a request. Raises `ErrorResult` with an `error-code`."""

    def close(self) -> None:
        """The guest's instance is gone."""


class Host:
    """What host functions work on."""

    def __init__(self) -> None:
        self.resources = ResourceTable()
        self.exchange: Exchange | None = None
        """None while no request is answered, as in calls of other functions."""
        self.outgoing: Outgoing | None = None
        """None where requests of the guest lead nowhere."""
        self.failure: BaseException | None = None
        """Of a host function, for a reason that is not the guest's."""

    def begin(self, exchange: Exchange) -> None:
        """Serve this request from now on."""
        self.exchange = exchange
        self.failure = None

    def end(self) -> None:
        """The guest's instance is gone."""
        self.resources.clear()
        if self.outgoing is not None:
            self.outgoing.close()
        self.exchange = None

    def wait(self, pollables: Sequence[Pollable]) -> list[int]:
        """The indices of those that are ready, when one is. Raises `GuestFaultError`."""
        if self.exchange is not None:
            self.exchange.release()
        return wait(pollables)
