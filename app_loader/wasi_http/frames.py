"""What the server and a process that answers HTTP requests say to each other over their stream socket.

One request after the other. To the process: `REQUEST`, then any number of `BODY`, then `END` or `ABORT`. From it:
`HEAD`, any number of `BODY`, `END`; and in any case, when it is ready for the next request, `DONE`.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from app_loader.runner_messages import ProcessUsage, Report

HEADER = struct.Struct("!BI")
"""Of a frame: its kind and the bytes that follow."""

MAX_FRAME = 512 * 1024


class Frame(IntEnum):
    """Kinds of frames."""

    REQUEST = 1
    BODY = 2
    END = 3
    """Of a body; with trailers in msgpack, if there are any."""
    ABORT = 4
    """The body will not be completed."""
    HEAD = 5
    DONE = 6


Headers = tuple[tuple[str, bytes], ...]
"""Names, and values that may have any bytes."""


class RequestHead(msgspec.Struct, frozen=True, array_like=True):
    """A request. `memory` is the limit of each linear memory in bytes."""

    method: str
    path: str
    authority: str
    headers: Headers
    memory: int
    has_body: bool
    environment: tuple[tuple[str, str], ...] = ()
    reuse: bool = False
    """Whether the instance may have answered before, and may again."""


class ResponseHead(msgspec.Struct, frozen=True, array_like=True):
    """A response."""

    status: int
    headers: Headers


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a request went. All None: the guest has answered it and returned."""

    error_code: str | None = None
    """The guest gave this `error-code` of wasi:http in place of a response."""
    unanswered: str | None = None
    """The guest returned without having answered, and how."""
    report: Report | None = None
    """The guest did not return."""
    broken: str | None = None
    """The process failed, not the guest."""


class Conclusion(msgspec.Struct, frozen=True, array_like=True):
    """How a request went and what it took; `total` are the seconds that the process has had in its life."""

    outcome: Outcome
    used: ProcessUsage
    total: float


encode = msgspec.msgpack.encode
request_decoder = msgspec.msgpack.Decoder(RequestHead)
response_decoder = msgspec.msgpack.Decoder(ResponseHead)
conclusion_decoder = msgspec.msgpack.Decoder(Conclusion)
headers_decoder = msgspec.msgpack.Decoder(Headers)


def frame(kind: Frame, content: bytes = b"") -> bytes:
    """A frame as it goes over the socket."""
    return HEADER.pack(kind, len(content)) + content
