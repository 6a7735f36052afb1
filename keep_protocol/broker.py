"""What a keep and its network broker say to each other, and what the broker is told by the manager."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

PROTOCOL_VERSION = 1

MAX_MESSAGE = 16 * 1024
"""Bytes of one message on the socket between them (SOCK_SEQPACKET), either way."""
MAX_ADDRESSES = 64
"""Of one host; further ones are neither checked nor connected to."""

CONFIGURATION_NAME = "broker.json"
SOCKET_FOLDER = "socket"
"""In the folder that a keep and its broker share; in it the socket `BROKER_SOCKET`."""

DEADLINE = 20.0
"""Seconds in which a broker answers, whatever it was asked."""


class BrokerOperation(StrEnum):
    """What a broker can be asked for."""

    CONNECT = "connect"
    """A connected TCP socket."""
    BIND = "bind"
    """A listening TCP socket."""
    RESOLVE = "resolve"
    """The addresses of a host that may be connected to."""


class BrokerResult(StrEnum):
    """How a request ended; with `ok` comes a descriptor, unless only addresses were asked for."""

    OK = "ok"
    DENIED = "denied"
    """The spec does not allow it."""
    NAME_NOT_FOUND = "name-not-found"
    CONNECTION_REFUSED = "connection-refused"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    PORT_TAKEN = "port-taken"
    PORT_FORBIDDEN = "port-forbidden"
    """The host does not let the broker have this port."""
    BUSY = "busy"
    MALFORMED = "malformed"
    WRONG_SPEC = "wrong-spec"
    """Keep and broker have specs with different digests."""


class BrokerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one message of a connection to the broker."""

    version: int
    spec_digest: str
    """That of the spec that the keep was started from."""
    operation: BrokerOperation
    port: int
    host: str = ""
    """To listen: the one address to listen at; empty for the host's own choice."""
    method: str | None = None
    """Of the HTTP request that the connection is for; the broker cannot see whether this is true."""


class BrokerAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer; after it the broker closes the connection."""

    version: int
    result: BrokerResult
    reason: str = ""
    rule: str | None = None
    addresses: tuple[str, ...] = ()
    """Of the host; the one that was connected to, if there was one."""


class BrokerConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`broker.json`: all that a broker is told by its host."""

    version: Literal[1]
    spec: str
    """The canonical bytes of the keep's spec, as text."""
    spec_digest: str
    listen_address: str
    """The host's address on which ports are listened on."""
