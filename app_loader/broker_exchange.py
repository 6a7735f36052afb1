"""One request to a keep's network broker, and its answer with the socket that comes along."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from app_loader.errors import NetworkUnavailableError
from keep_protocol.broker import DEADLINE, MAX_MESSAGE, PROTOCOL_VERSION, BrokerAnswer
from keep_protocol.strict_json import decode_strictly

PATIENCE: Final = 5.0
"""Seconds for a broker that is starting again to be there."""

_PAUSE: Final = 0.05
_NOT_THERE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN})


class Answered(NamedTuple):
    """What a broker said and gave."""

    answer: BrokerAnswer
    socket: socket.socket | None


async def ask(broker: Path, request: bytes) -> Answered:
    """The broker's answer; one that dies meanwhile is asked again when it is back. Raises `NetworkUnavailableError`."""
    try:
        async with asyncio.timeout(DEADLINE + PATIENCE):
            while True:
                if (answered := await _exchange(broker, request)) is not None:
                    return answered
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise NetworkUnavailableError("the network broker of this keep does not answer") from None


async def _exchange(broker: Path, request: bytes) -> Answered | None:
    """One connection to the broker; None when it went away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as channel:
        await _connect(channel, broker)
        try:
            channel.send(request)
            await _readable(channel)
            return _receive(channel)
        except (BrokenPipeError, ConnectionResetError):
            return None


async def _connect(channel: socket.socket, path: Path) -> None:
    """Raises `NetworkUnavailableError` when nobody listens there for as long as a restart may take."""
    give_up = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            # Not loop.sock_connect(): for a full backlog a UNIX socket says EAGAIN, and is never writable then.
            channel.connect(str(path))
            return
        except OSError as error:
            if error.errno not in _NOT_THERE or asyncio.get_running_loop().time() > give_up:
                detail = error.strerror or type(error).__name__
                raise NetworkUnavailableError(f"the network broker of this keep cannot be reached: {detail}") from None
        await asyncio.sleep(_PAUSE)


async def _readable(channel: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(channel, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(channel)


def _receive(channel: socket.socket) -> Answered | None:
    message, descriptors, flags, _ = socket.recv_fds(channel, MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC)
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        if not message:
            return None
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            raise NetworkUnavailableError("the broker sent more than belongs to an answer")
        answer = _decoded(message)
        if not descriptors:
            return Answered(answer, None)
        try:
            received = socket.socket(fileno=descriptors[0])
        except OSError:
            raise NetworkUnavailableError("the broker sent a descriptor that is no socket") from None
        stack.pop_all()
        received.setblocking(False)
        return Answered(answer, received)


def _decoded(message: bytes) -> BrokerAnswer:
    try:
        answer = decode_strictly(message, BrokerAnswer)
    except msgspec.MsgspecError as error:
        raise NetworkUnavailableError(f"the broker's answer is malformed: {error}") from None
    if answer.version != PROTOCOL_VERSION:
        raise NetworkUnavailableError(f"the broker speaks version {answer.version}, not {PROTOCOL_VERSION}")
    return answer
