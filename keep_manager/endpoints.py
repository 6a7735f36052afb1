"""Binds the sockets at which keeps listen: a new endpoint once, the same one ever after."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import random
import socket
import time

from keep_manager.errors import EndpointTakenError

BACKLOG = 128
REBIND_DEADLINE = 1.0


def bind_new(address: str, ports: tuple[int, int] | None) -> socket.socket:
    """A listening socket at a port that the kernel chooses, or at a free one of the range.

    Raises `EndpointTakenError` when the range is used up, `OSError` when the address is not this host's.
    """
    if ports is None:
        return _listen(address, 0)
    candidates = list(range(ports[0], ports[1] + 1))
    # At random, so that the port of a removed keep is not at once that of somebody else's.
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        try:
            return _listen(address, port)
        except EndpointTakenError:
            continue
    raise EndpointTakenError(f"no port from {ports[0]} to {ports[1]} is free at {address}: widen `endpoints.ports`")


def bind_recorded(endpoint: str) -> socket.socket:
    """A listening socket at a keep's own endpoint. Raises `EndpointTakenError`; never takes another port."""
    host, port = split_endpoint(endpoint)
    return _listen(host, port)


async def bind_again(endpoint: str) -> socket.socket:
    """The endpoint of a keep that ran until now. Raises `EndpointTakenError` after `REBIND_DEADLINE`.

    systemd closes the socket that it stored for a unit a moment after it calls the unit stopped.
    """
    end = time.monotonic() + REBIND_DEADLINE
    while True:
        try:
            return bind_recorded(endpoint)
        except EndpointTakenError:
            if time.monotonic() >= end:
                raise
        await asyncio.sleep(0.02)


def port_is_free(address: str, port: int) -> bool:
    """Whether nobody listens there; whether one may is another question."""
    try:
        # The manager may lack the right to a port that a broker has: low ports, to begin with.
        with contextlib.suppress(PermissionError):
            _listen(address, port).close()
    except EndpointTakenError:
        return False
    return True


def endpoint_of(listener: socket.socket) -> str:
    """`ADDRESS:PORT` of a bound socket, with brackets around an IPv6 address."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Address without brackets, and port."""
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # Old connections in TIME_WAIT must not keep a keep from its port. Never SO_REUSEPORT: two would share it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # At once: Linux lets a second SO_REUSEADDR socket bind to a port on which nobody listens yet.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise EndpointTakenError(f"something else listens on {host}:{port}: end it, then start the keep") from None
        raise
    return listener
