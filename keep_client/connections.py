"""How a channel's connections come about: whom they accept, and when."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Protocol, TypeAlias

import httpx

from keep_client.credentials import Credentials
from keep_client.pins import KeepPin
from keep_client.tls import keep_context

if TYPE_CHECKING:
    # Verifiers are imported by whoever names a policy, and only then.
    from keep_client.attested_peer import AttestedPeer

KeepPeer: TypeAlias = "KeepPin | AttestedPeer"
"""What a keep is held to: a key that its manager names, or what it proves itself."""

KEEPALIVE = (
    # A follower of a silent guest waits without a read timeout: the kernel finds out when the peer is gone.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


class Connections(Protocol):
    """Makes transports, each a pool of connections to one peer. Pools are never shared between peers."""

    def transport(self) -> httpx.HTTPTransport: ...

    def async_transport(self) -> httpx.AsyncHTTPTransport: ...


class TlsConnections:
    """Connections that a TLS context decides about, alone and in the handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def transport(self) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(verify=self._context, trust_env=False, socket_options=KEEPALIVE)

    def async_transport(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, socket_options=KEEPALIVE)


def connections_to(peer: KeepPeer, credentials: Credentials) -> Connections:
    """Connections to a keep. Raises `InvalidArgumentError` for credentials that cannot be used."""
    if isinstance(peer, KeepPin):
        return TlsConnections(keep_context(peer, credentials))
    from keep_client.attested_streams import AttestedConnections

    return AttestedConnections(peer, credentials)
