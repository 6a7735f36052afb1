"""What the server and a process for calls say to each other over their socket: msgspec JSON, its length before it."""

from __future__ import annotations

import struct

import msgspec

from app_loader.runner_messages import ProcessUsage, Report

LENGTH = struct.Struct("!I")

MAX_RESULT = 16 * 1024 * 1024
"""Bytes of a result as JSON."""

MAX_ANSWER = MAX_RESULT + 256 * 1024


class CallOrder(msgspec.Struct, frozen=True):
    """One call. `memory` is the limit of a linear memory in bytes."""

    function: str
    arguments: msgspec.Raw
    memory: int
    reuse: bool = False
    """Whether the instance may have answered before, and may again."""


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """The function returned."""

    result: msgspec.Raw


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The function was not called: a `RefusalError` with these members."""

    code: str
    detail: str
    field: str | None = None
    remedy: str | None = None


class GuestFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The function did not return."""

    report: Report


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """Wasmtime or the process failed, not the guest."""

    error: str


Answer = Returned | Refused | GuestFailed | Broken


class Answered(msgspec.Struct, frozen=True):
    """An answer and what it took; `total` are the seconds of processor time that the process has had in its life."""

    answer: Answer
    used: ProcessUsage
    total: float


order_encoder = msgspec.json.Encoder()
order_decoder = msgspec.json.Decoder(CallOrder)
answer_encoder = msgspec.json.Encoder()
answer_decoder = msgspec.json.Decoder(Answered)


def framed(content: bytes) -> bytes:
    """A message with its length before it."""
    return LENGTH.pack(len(content)) + content
