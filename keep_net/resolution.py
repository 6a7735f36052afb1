"""Turns names into addresses with the resolver of the system, in few threads, with a deadline."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from keep_net.errors import RequestRefusedError
from keep_protocol.broker import MAX_ADDRESSES, BrokerResult
from keep_protocol.egress.hosts import Address, canonical_address

THREADS: Final = 8
"""A name whose servers are silent holds one of them for as long as resolv.conf(5) says."""
_DEADLINE: Final = 8.0


class Resolver(Protocol):
    """What a broker asks for addresses."""

    async def __call__(self, name: str) -> tuple[Address, ...]:
        """The addresses of a name, best first. Raises `RequestRefusedError`."""


class SystemResolver:
    """getaddrinfo(3): hosts file, DNS, and whatever else nsswitch.conf(5) names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolver")

    async def __call__(self, name: str) -> tuple[Address, ...]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DEADLINE):
                return await loop.run_in_executor(self._threads, _look_up, name)
        except TimeoutError:
            raise RequestRefusedError(
                BrokerResult.TIMEOUT, f"{name} could not be resolved within {_DEADLINE:g} s"
            ) from None

    def close(self) -> None:
        """Let go of names that nobody waits for any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(name: str) -> tuple[Address, ...]:
    try:
        # Bytes: of a str, Python would make what it takes for IDNA, and import all that for it.
        found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise RequestRefusedError(BrokerResult.NAME_NOT_FOUND, f"{name}: {error.strerror}") from None
    addresses = dict.fromkeys(canonical_address(str(entry[4][0]).partition("%")[0]) for entry in found)
    return tuple(addresses)[:MAX_ADDRESSES]
