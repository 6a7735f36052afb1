"""A run's standard input: nothing, bytes that came with the request, or a stream that is fed while it runs."""

from __future__ import annotations

import asyncio
import binascii
import os
from collections.abc import AsyncIterator
from typing import Literal, TypeAlias

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import Stdin

Input: TypeAlias = Literal["none", "stream"] | Stdin


def given_input(stdin: Input) -> bytes | None:
    """The decoded bytes of `stdin.base64`, if that is what is wanted. Raises `RefusalError` (`field-invalid`)."""
    if not isinstance(stdin, Stdin):
        return None
    try:
        return binascii.a2b_base64(stdin.base64, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise RefusalError(ErrorCode.FIELD_INVALID, f"`stdin.base64` is not base64: {error}", field="stdin") from None


class StandardInput:
    """Both ends of a run's standard input; the run's end is given away once."""

    def __init__(self, stdin: Input) -> None:
        self._streamed = stdin == "stream"
        self.size = 0
        """Bytes that were given so far."""
        self._fed = False
        self._writer = -1
        self._writable: asyncio.Future[None] | None = None
        content = given_input(stdin)
        if content is not None:
            self.size = len(content)
            self._reader = _sealed(content)
        elif self._streamed:
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._writer, False)
        else:
            self._reader = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def take_reader(self) -> int:
        """The run's end, which becomes the caller's."""
        reader, self._reader = self._reader, -1
        return reader

    def claim(self) -> None:
        """Become the one who feeds it. Raises `RefusalError` (`stdin-conflict`)."""
        if not self._streamed:
            raise RefusalError(
                ErrorCode.STDIN_CONFLICT,
                "this run was not started with a streamed standard input",
                remedy='start it with `"stdin": "stream"`',
            )
        if self._fed:
            raise RefusalError(ErrorCode.STDIN_CONFLICT, "the standard input of this run has been sent already")
        self._fed = True

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Write the chunks as the guest reads, then end the stream. Returns early if the run ends before.

        If the chunks break off, the stream stays open: its end would tell the guest that it has got all.
        """
        async for chunk in chunks:
            if not await self._write(memoryview(chunk)):
                break
        self._close_writer()

    def close(self) -> None:
        """The run is over; whoever feeds it returns."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        self._close_writer()

    async def _write(self, content: memoryview) -> bool:
        """Whether it went out; not when the guest is gone."""
        while content:
            if self._writer < 0:
                return False
            try:
                written = os.write(self._writer, content)
                self.size += written
                content = content[written:]
            except BlockingIOError:
                await self._room()
            except BrokenPipeError:
                return False
        return True

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        writable = self._writable = loop.create_future()
        loop.add_writer(self._writer, _wake, writable)
        try:
            await writable
        finally:
            self._writable = None
            if self._writer >= 0:
                loop.remove_writer(self._writer)

    def _close_writer(self) -> None:
        if self._writer < 0:
            return
        if self._writable is not None:
            asyncio.get_running_loop().remove_writer(self._writer)
            _wake(self._writable)
        os.close(self._writer)
        self._writer = -1


def _sealed(content: bytes) -> int:
    """A file in memory, opened for reading only."""
    memfd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with open(memfd, "wb") as file:
        file.write(content)
        file.flush()
        return os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY | os.O_CLOEXEC)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
