"""Carries `AttestedTls` over httpcore's connections, so that httpx speaks to keeps that have proven themselves."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx
from OpenSSL import SSL

from keep_client.attested_peer import AttestedPeer
from keep_client.attested_tls import AttestedTls, attested_context
from keep_client.connections import KEEPALIVE
from keep_client.credentials import Credentials
from keep_client.errors import PeerRefusedError

_READ: Final = 64 * 1024
_UNREACHABLE: Final = (httpcore.NetworkError, httpcore.TimeoutException)


def _failure(error: BaseException) -> Exception | None:
    """What httpcore calls the end of a connection that never stood: no request was sent, whatever the reason."""
    match error:
        case PeerRefusedError() | ssl.SSLError():
            return httpcore.ConnectError(str(error))
        case httpcore.NetworkError():
            return httpcore.ConnectError(str(error) or "it ended the connection before it had proven itself")
        case httpcore.TimeoutException():
            return httpcore.ConnectTimeout(str(error))
        case _:
            return None


def _nobody() -> ssl.SSLContext:
    """For httpx's own pool, which ours replaces: it loads no CAs, and would trust none if it were ever used."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _left(until: float | None) -> float | None:
    """For all of a proof, not for each of its bytes: a peer that sends one now and then is none. Raises httpcore's."""
    if until is None:
        return None
    if (left := until - time.monotonic()) <= 0:
        raise httpcore.ReadTimeout("it has not proven itself in time")
    return left


class _TlsStream(httpcore.NetworkStream):
    """A connection whose TLS is ours."""

    def __init__(self, below: httpcore.NetworkStream, tls: AttestedTls) -> None:
        self._below = below
        self._tls = tls

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            while (data := self._tls.read(max_bytes)) is None:
                self._tls.feed(self._below.read(_READ, timeout))
        except ssl.SSLError as error:
            raise httpcore.ReadError(str(error)) from error
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._tls.write(buffer)
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error
        self._below.write(self._tls.outgoing(), timeout)

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        # httpcore looks for an `ssl` object to learn whether HTTP/2 was negotiated: it never is.
        return None if info == "ssl_object" else self._below.get_extra_info(info)


class _ProvenStream(httpcore.NetworkStream):
    """A TCP connection that becomes TLS only once the peer has proven itself on it."""

    def __init__(self, below: httpcore.NetworkStream, context: SSL.Context, peer: AttestedPeer) -> None:
        self._below = below
        self._context = context
        self._peer = peer

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        tls = AttestedTls(self._context, self._peer)
        until = None if timeout is None else time.monotonic() + timeout
        steps = tls.establish()
        try:
            sending = next(steps)
            while True:
                if sending:
                    self._below.write(sending, _left(until))
                sending = steps.send(self._below.read(_READ, _left(until)))
        except StopIteration:
            return _TlsStream(self._below, tls)
        except BaseException as error:
            self._farewell(tls.outgoing(), timeout)
            if failure := _failure(error):
                raise failure from error
            raise

    def _farewell(self, alert: bytes, timeout: float | None) -> None:
        try:
            if alert:
                self._below.write(alert, timeout)
        except _UNREACHABLE:
            pass
        finally:
            self._below.close()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise httpcore.UnsupportedProtocol("a keep is never spoken to in plain text")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.UnsupportedProtocol("a keep is never spoken to in plain text")

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        return self._below.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, context: SSL.Context, peer: AttestedPeer) -> None:
        self._below = httpcore.SyncBackend()
        self._context = context
        self._peer = peer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._below.connect_tcp(host, port, timeout, local_address, socket_options)
        return _ProvenStream(stream, self._context, self._peer)


class _AsyncTlsStream(httpcore.AsyncNetworkStream):
    """The twin of `_TlsStream`."""

    def __init__(self, below: httpcore.AsyncNetworkStream, tls: AttestedTls) -> None:
        self._below = below
        self._tls = tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            while (data := self._tls.read(max_bytes)) is None:
                self._tls.feed(await self._below.read(_READ, timeout))
        except ssl.SSLError as error:
            raise httpcore.ReadError(str(error)) from error
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._tls.write(buffer)
        except ssl.SSLError as error:
            raise httpcore.WriteError(str(error)) from error
        await self._below.write(self._tls.outgoing(), timeout)

    async def aclose(self) -> None:
        await self._below.aclose()

    def get_extra_info(self, info: str) -> Any:
        return None if info == "ssl_object" else self._below.get_extra_info(info)


class _AsyncProvenStream(httpcore.AsyncNetworkStream):
    """The twin of `_ProvenStream`."""

    def __init__(self, below: httpcore.AsyncNetworkStream, context: SSL.Context, peer: AttestedPeer) -> None:
        self._below = below
        self._context = context
        self._peer = peer

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        tls = AttestedTls(self._context, self._peer)
        until = None if timeout is None else time.monotonic() + timeout
        steps = tls.establish()
        try:
            sending = next(steps)
            while True:
                if sending:
                    await self._below.write(sending, _left(until))
                received = await self._below.read(_READ, _left(until))
                try:
                    sending = steps.send(received)
                except StopIteration:
                    return _AsyncTlsStream(self._below, tls)
        except BaseException as error:
            await self._farewell(tls.outgoing(), timeout)
            if failure := _failure(error):
                raise failure from error
            raise

    async def _farewell(self, alert: bytes, timeout: float | None) -> None:
        try:
            if alert:
                await self._below.write(alert, timeout)
        except _UNREACHABLE:
            pass
        finally:
            await self._below.aclose()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        raise httpcore.UnsupportedProtocol("a keep is never spoken to in plain text")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        raise httpcore.UnsupportedProtocol("a keep is never spoken to in plain text")

    async def aclose(self) -> None:
        await self._below.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._below.get_extra_info(info)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, context: SSL.Context, peer: AttestedPeer) -> None:
        self._below = httpcore.AnyIOBackend()
        self._context = context
        self._peer = peer

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._below.connect_tcp(host, port, timeout, local_address, socket_options)
        return _AsyncProvenStream(stream, self._context, self._peer)


class AttestedConnections:
    """Makes transports to one keep; each connection of theirs is proven anew."""

    def __init__(self, peer: AttestedPeer, credentials: Credentials) -> None:
        """Raises `InvalidArgumentError` for credentials that cannot be used."""
        self._peer = peer
        self._context = attested_context(peer, credentials)

    def transport(self) -> httpx.HTTPTransport:
        transport = httpx.HTTPTransport(verify=_nobody(), trust_env=False)
        # `network_backend` is a public parameter of httpcore's pool, to which httpx gives no public way.
        transport._pool = httpcore.ConnectionPool(
            network_backend=_Backend(self._context, self._peer),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            socket_options=KEEPALIVE,
        )
        return transport

    def async_transport(self) -> httpx.AsyncHTTPTransport:
        transport = httpx.AsyncHTTPTransport(verify=_nobody(), trust_env=False)
        transport._pool = httpcore.AsyncConnectionPool(
            network_backend=_AsyncBackend(self._context, self._peer),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            socket_options=KEEPALIVE,
        )
        return transport
