"""Requests and answers as plain values, so that the sync and the async client share all but the I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from keep_client.errors import ProblemError, ProtocolError
from keep_protocol.errors import PROBLEM_MEDIA_TYPE, Problem
from keep_protocol.strict_json import decode_strictly

T = TypeVar("T")

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer that is not streamed; a keep is the least trusted party and may send for ever."""

READ_TIMEOUT = 30.0
"""Seconds without a byte after which a peer counts as gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `target` is path and query, percent-encoded.

    `read_timeout` None waits as long as the connection lives. `repeatable` says that sending it twice does no harm.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    read_timeout: float | None = READ_TIMEOUT
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields of an answer; names are in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def expect_anything(head: Head) -> None:
    """A check that leaves it all to the decoder."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose answer is read completely.

    Only successes get to `check`, before the body is read, and to `decode`, after that.
    """

    request: Request
    decode: Callable[[Head, bytes], T]
    check: Callable[[Head], None] = expect_anything


@dataclass(frozen=True, slots=True)
class StreamCall:
    """A request whose answer is handed on as it comes; `check` gets the head of a success."""

    request: Request
    check: Callable[[Head], None]


def problem(head: Head, body: bytes) -> ProblemError | ProtocolError:
    """The error that an unsuccessful answer stands for."""
    if head.status >= 400 and head.media_type == PROBLEM_MEDIA_TYPE:
        try:
            return ProblemError(decode_strictly(body, Problem))
        except msgspec.MsgspecError as error:
            return ProtocolError(f"the answer {head.status} has a malformed problem document: {error}")
    return ProtocolError(f"the answer {head.status} of type {head.media_type!a} has no problem document")


def succeeded(head: Head) -> bool:
    """Whether the status is 2xx; redirects are none, nobody here sends them."""
    return 200 <= head.status < 300


def expect_json(kind: type[T]) -> Callable[[Head, bytes], T]:
    """A decoder for `application/json` of this type."""

    def decode(head: Head, body: bytes) -> T:
        if head.media_type != "application/json":
            raise ProtocolError(f"expected JSON, got {head.media_type!a}")
        try:
            return decode_strictly(body, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProtocolError(f"the answer is not a {getattr(kind, '__name__', kind)}: {error}") from error

    return decode


def expect_text(head: Head, body: bytes) -> str:
    """A decoder for any text; bytes that are no UTF-8 are replaced."""
    return body.decode(errors="replace")


def expect_nothing(head: Head, body: bytes) -> None:
    """A decoder for answers whose status says it all."""


def expect_bytes(head: Head) -> None:
    """A check for streams of raw bytes."""
    if head.media_type != "application/octet-stream":
        raise ProtocolError(f"expected raw bytes, got {head.media_type!a}")
