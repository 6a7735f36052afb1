"""`wasi:io`: errors, pollables and streams, each over a descriptor, a clock, or nothing that could be waited for."""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Sequence
from typing import Any

from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.resources import Resource

MAX_READ = 64 * 1024
"""Bytes of one read, however many the guest asks for."""
MAX_WRITE = 64 * 1024
"""Bytes that a stream takes at a time."""
MAX_BLOCKING_WRITE = 4096
"""Of `blocking-write-and-flush`; wasi:io/streams."""

CLOSED = ("closed", None)
"""The `stream-error` of a stream that has ended."""


class IoError(Resource):
    """`error`: why an operation on a stream failed. `code` is an `error-code` of wasi:http, if it has one."""

    def __init__(self, message: str, code: tuple[str, Any] | None = None) -> None:
        self.message = message
        self.code = code


def failed(message: str, code: tuple[str, Any] | None = None) -> ErrorResult:
    """The `stream-error` of an operation that failed."""
    return ErrorResult(("last-operation-failed", IoError(message, code)))


class Pollable(Resource):
    """`pollable`: ready always, unless a subclass knows better."""

    def ready(self) -> bool:
        """Whether there is nothing to wait for."""
        return True

    def waits_for(self) -> tuple[int, int] | None:
        """A descriptor and its events (`select.POLLIN`, …) that make it ready."""
        return None

    def deadline(self) -> float:
        """When it will be ready anyway, by `time.monotonic`."""
        return math.inf


class Alarm(Pollable):
    """Ready at a time of `time.monotonic`."""

    def __init__(self, due: float) -> None:
        self._due = due

    def ready(self) -> bool:
        return time.monotonic() >= self._due

    def deadline(self) -> float:
        return self._due


def wait(pollables: Sequence[Pollable]) -> list[int]:
    """Block until at least one is ready; the indices of those that are. Raises `GuestFaultError` for none at all."""
    if not pollables:
        raise GuestFaultError("poll of an empty list never returns")
    while True:
        if ready := [index for index, each in enumerate(pollables) if each.ready()]:
            return ready
        poll = select.poll()
        due = math.inf
        for each in pollables:
            if (waits := each.waits_for()) is not None:
                poll.register(*waits)
            due = min(due, each.deadline())
        # Rounded up, or the last millisecond would be spun away.
        poll.poll(None if due == math.inf else max(0, math.ceil((due - time.monotonic()) * 1000)))


class InputStream(Resource):
    """`input-stream`: ended, unless a subclass has something to read."""

    def read(self, limit: int) -> bytes:
        """Up to `limit` bytes that are there now; none if none are. Raises `ErrorResult`."""
        raise ErrorResult(CLOSED)

    def pollable(self) -> Pollable:
        """Ready when `read` has something to say."""
        return Pollable()


class OutputStream(Resource):
    """`output-stream`; subclasses do something with what it takes."""

    def room(self) -> int:
        """How much can be written now. Raises `ErrorResult`."""
        return MAX_WRITE

    def write(self, content: bytes) -> None:
        """Take what there was room for. Raises `ErrorResult`."""

    def flush(self) -> None:
        """Let what was written go on its way. Raises `ErrorResult`."""

    def pollable(self) -> Pollable:
        """Ready when there is room."""
        return Pollable()


class PrintedStream(OutputStream):
    """Standard output or standard error: a pipe to the server, which always reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        """See `OutputStream`."""
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            raise ErrorResult(CLOSED) from None
