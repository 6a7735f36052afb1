"""Requests of a guest to the outside: each over a connection of its own that the keep's network has allowed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from app_loader.errors import EgressDeniedError, HostUnreachableError, NetworkUnavailableError
from app_loader.wasi_http.errors import ErrorResult
from app_loader.wasi_http.outgoing_exchange import OutgoingExchange, PendingResponse
from app_loader.wasi_http.outgoing_messages import OutgoingRequest, RequestOptions
from app_loader.wasi_http.wire import Wire
from keep_protocol.broker import BrokerResult
from keep_protocol.egress.errors import EgressError

MAX_CONNECTIONS = 16
"""Of one request that the guest answers."""

_PORTS = {"HTTP": 80, "HTTPS": 443}
_UNREACHABLE: dict[BrokerResult, tuple[str, Any]] = {
    BrokerResult.NAME_NOT_FOUND: ("DNS-error", {"rcode": "NXDOMAIN"}),
    BrokerResult.CONNECTION_REFUSED: ("connection-refused", None),
    BrokerResult.TIMEOUT: ("connection-timeout", None),
}


class Connector(Protocol):
    """Gives connected sockets to whom the keep's policy allows; `NetworkClient` in a keep."""

    def connect(self, host: str, port: int, method: str | None = None) -> socket.socket:
        """Raises `EgressError`, `EgressDeniedError`, `NetworkUnavailableError`."""


class OutgoingRequests:
    """Sends the requests of one guest. `roots` gives the certificates (PEM) that servers are checked against."""

    def __init__(self, connector: Connector, roots: Callable[[], str]) -> None:
        self._connector = connector
        self._roots = roots
        self._context: ssl.SSLContext | None = None
        self._open: list[OutgoingExchange] = []

    def send(self, request: OutgoingRequest, options: RequestOptions) -> PendingResponse:
        """Connect and begin to send. Raises `ErrorResult` with an `error-code`."""
        scheme, _ = request.scheme or ("HTTPS", None)
        if scheme not in _PORTS:
            raise ErrorResult(("HTTP-protocol-error", None))
        if not request.authority:
            raise ErrorResult(("HTTP-request-URI-invalid", None))
        method = request.method[1] or request.method[0].upper()
        if method.upper() == "CONNECT":
            raise ErrorResult(("HTTP-request-method-invalid", None))
        self._open = [exchange for exchange in self._open if not exchange.closed]
        if len(self._open) >= MAX_CONNECTIONS:
            raise ErrorResult(("connection-limit-reached", None))
        host, port = _host_and_port(request.authority, _PORTS[scheme])
        connected = self._connect(host, port, method)
        wire = Wire(connected, self._tls() if scheme == "HTTPS" else None, host)
        exchange = OutgoingExchange(wire, method, request, options)
        self._open.append(exchange)
        return PendingResponse(exchange)

    def close(self) -> None:
        """Close all connections: the guest's instance is gone."""
        for exchange in self._open:
            exchange.close()
        self._open.clear()

    def _connect(self, host: str, port: int, method: str) -> socket.socket:
        try:
            return self._connector.connect(host, port, method)
        except EgressDeniedError:
            code: tuple[str, Any] = ("HTTP-request-denied", None)
        except EgressError:
            code = ("HTTP-request-URI-invalid", None)
        except HostUnreachableError as error:
            code = _UNREACHABLE.get(error.result, ("destination-unavailable", None))
        except NetworkUnavailableError as error:
            code = ("internal-error", str(error))
        raise ErrorResult(code)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            if roots := self._roots():
                context.load_verify_locations(cadata=roots)
            self._context = context
        return self._context


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    """Of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`, whose syntax was checked when the guest set it."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, str(default)
    number = int(port)
    if not 0 < number < 65536:
        raise ErrorResult(("HTTP-request-URI-invalid", None))
    return host.strip("[]"), number
