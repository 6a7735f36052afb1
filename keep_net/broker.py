"""Serves one keep: one request on each connection, checked against the spec whatever the keep has checked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from keep_net.configuration import Allowed
from keep_net.errors import RequestRefusedError
from keep_net.resolution import Resolver
from keep_net.sockets import connect, listen
from keep_protocol.bounded_log import BoundedLog
from keep_protocol.broker import (
    DEADLINE,
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    BrokerAnswer,
    BrokerOperation,
    BrokerRequest,
    BrokerResult,
)
from keep_protocol.egress.decision import explain
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.hosts import Address, canonical_address
from keep_protocol.egress.targets import Target, target_of
from keep_protocol.network_api import Decision
from keep_protocol.strict_json import decode_strictly

MAX_REQUESTS: Final = 64
"""At a time; further ones are told that it is busy."""

_REQUEST_SECONDS: Final = 2.0
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = DEADLINE - 1

_logger = logging.getLogger(__name__)


class Broker:
    """Listens on a UNIX socket that only one keep can reach."""

    def __init__(self, allowed: Allowed, resolver: Resolver) -> None:
        self._allowed = allowed
        self._resolve = resolver
        self._serving: set[asyncio.Task[None]] = set()
        self._refusals = BoundedLog(_logger)

    async def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects to `listener`, which is not blocking, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = await loop.sock_accept(listener)
                if len(self._serving) >= 2 * MAX_REQUESTS:
                    connection.close()
                    continue
                task = loop.create_task(self._serve(connection, busy=len(self._serving) >= MAX_REQUESTS))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
        finally:
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, connection: socket.socket, *, busy: bool) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError):
            # Also of who is told at once to come again: where a message is left unread, the answer does not arrive.
            async with asyncio.timeout(_REQUEST_SECONDS):
                message = await asyncio.get_running_loop().sock_recv(connection, MAX_MESSAGE)
            if busy:
                reason = f"{MAX_REQUESTS} requests are under way; end some, or ask again"
                _send(connection, BrokerAnswer(PROTOCOL_VERSION, BrokerResult.BUSY, reason))
            elif message:
                answer, given = await self._answer(message)
                with given or contextlib.nullcontext():
                    _send(connection, answer, given)

    async def _answer(self, message: bytes) -> tuple[BrokerAnswer, socket.socket | None]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._act(self._request(message))
        except RequestRefusedError as error:
            if error.result in (BrokerResult.DENIED, BrokerResult.MALFORMED, BrokerResult.WRONG_SPEC):
                # The keep checks all of this before it asks: something in there is not what it was.
                self._refusals.warning("refused: %s: %s", error.result, error)
            return BrokerAnswer(PROTOCOL_VERSION, error.result, str(error)[:2048], rule=error.rule), None
        except TimeoutError:
            return BrokerAnswer(PROTOCOL_VERSION, BrokerResult.TIMEOUT, "it took too long"), None

    def _request(self, message: bytes) -> BrokerRequest:
        try:
            request = decode_strictly(message, BrokerRequest)
        except msgspec.DecodeError as error:
            raise RequestRefusedError(BrokerResult.MALFORMED, f"this is no request: {error}") from None
        if request.version != PROTOCOL_VERSION:
            raise RequestRefusedError(
                BrokerResult.MALFORMED, f"the keep speaks version {request.version}, this broker {PROTOCOL_VERSION}"
            )
        if request.spec_digest != self._allowed.spec_digest:
            raise RequestRefusedError(BrokerResult.WRONG_SPEC, "this broker serves the keep of another spec")
        return request

    async def _act(self, request: BrokerRequest) -> tuple[BrokerAnswer, socket.socket | None]:
        if request.operation is BrokerOperation.BIND:
            return BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK), self._listen(request.port, request.host)
        try:
            target = target_of(request.host, request.port, request.method)
        except EgressError as error:
            raise RequestRefusedError(BrokerResult.MALFORMED, str(error)) from None
        # Before the name is looked up: a question about it is a message to whoever answers it.
        self._check(explain(self._allowed.egress, target))
        addresses = await self._addresses(target)
        if request.operation is BrokerOperation.RESOLVE:
            return BrokerAnswer(PROTOCOL_VERSION, BrokerResult.OK, addresses=tuple(map(str, addresses))), None
        decision = self._check(explain(self._allowed.egress, target, addresses))
        connection, address = await connect(addresses, target.port, _CONNECT_SECONDS)
        return BrokerAnswer(
            PROTOCOL_VERSION, BrokerResult.OK, rule=decision.rule, addresses=(str(address),)
        ), connection

    def _listen(self, port: int, wanted: str) -> socket.socket:
        if port not in self._allowed.listen:
            raise RequestRefusedError(BrokerResult.DENIED, f"the spec's `network.listen` does not name port {port}")
        return listen(self._allowed.listen_address if not wanted else self._narrowed(wanted), port)

    def _narrowed(self, wanted: str) -> Address:
        """An address that is one of those at which the host lets ports be reached."""
        try:
            address = canonical_address(wanted)
        except EgressError as error:
            raise RequestRefusedError(BrokerResult.MALFORMED, str(error)) from None
        ours = self._allowed.listen_address
        # Linux listens at `::` for IPv4 too.
        if address == ours or (ours.is_unspecified and (ours.version == 6 or address.version == 4)):
            return address
        raise RequestRefusedError(
            BrokerResult.PORT_FORBIDDEN, f"the host lets keeps listen at {ours} and not at {address}"
        )

    async def _addresses(self, target: Target) -> tuple[Address, ...]:
        return await self._resolve(target.host) if isinstance(target.host, str) else (target.host,)

    def _check(self, decision: Decision) -> Decision:
        if not decision.allowed:
            raise RequestRefusedError(BrokerResult.DENIED, decision.reason, rule=decision.rule)
        return decision


def open_socket(path: Path) -> socket.socket:
    """The listening socket of a broker, not blocking. Who may reach it is decided by its folder, not by its mode."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    path.unlink(missing_ok=True)
    listener.bind(os.fspath(path))
    path.chmod(0o666)
    listener.listen(MAX_REQUESTS)
    return listener


def _send(connection: socket.socket, answer: BrokerAnswer, given: socket.socket | None = None) -> None:
    socket.send_fds(connection, [msgspec.json.encode(answer)], [given.fileno()] if given else [])
