"""Makes the two kinds of sockets that a broker gives away: connected and listening ones."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from keep_net.errors import RequestRefusedError
from keep_protocol.broker import BrokerResult
from keep_protocol.egress.hosts import Address

_ADDRESS_DEADLINE: Final = 5.0
"""Seconds for one of several addresses."""
_BACKLOG: Final = 128


async def connect(addresses: Sequence[Address], port: int, deadline: float) -> tuple[socket.socket, Address]:
    """A connection to the first of `addresses` that takes it, and which it was; `deadline` in seconds for all of them.

    These addresses and no others: a name that is resolved again may have changed its mind. Raises
    `RequestRefusedError` with the reason of the last.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    failure = RequestRefusedError(BrokerResult.TIMEOUT, "there was no time to connect")
    for number, address in enumerate(addresses):
        left = end - loop.time()
        last = number == len(addresses) - 1
        try:
            async with asyncio.timeout(left if last else min(left, _ADDRESS_DEADLINE)):
                return await _connect(address, port), address
        except TimeoutError:
            failure = RequestRefusedError(BrokerResult.TIMEOUT, f"{address} port {port} does not answer")
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED
            result = BrokerResult.CONNECTION_REFUSED if refused else BrokerResult.UNREACHABLE
            # asyncio has texts of its own in `strerror`.
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            failure = RequestRefusedError(result, f"{address} port {port}: {reason}")
    raise failure


async def _connect(address: Address, port: int) -> socket.socket:
    connection = _tcp(address)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        if connection.getsockname()[:2] == connection.getpeername()[:2]:
            # The kernel chose the very port that nobody listens on, and TCP lets a socket connect to itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    except BaseException:
        connection.close()
        raise
    return connection


def listen(address: Address, port: int) -> socket.socket:
    """A listening socket. Raises `RequestRefusedError`."""
    listener = _tcp(address)
    where = f"port {port} of `network.listen` at {address}"
    try:
        # Old connections in TIME_WAIT must not keep a keep from its port. Never SO_REUSEPORT: two would share it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise RequestRefusedError(
                BrokerResult.PORT_TAKEN, f"{where} is taken: end what listens there, or make a keep with another port"
            ) from None
        raise RequestRefusedError(BrokerResult.PORT_FORBIDDEN, f"{where}: {error.strerror}") from None
    return listener


def _tcp(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
