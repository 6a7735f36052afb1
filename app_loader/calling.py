"""What a process for calls does: one call after the other, until the server hangs up.

It has no folders, and its standard streams lead nowhere. A call that lasts too long is ended together with its process.
"""

from __future__ import annotations

import resource
import signal
import socket
from typing import Any

import msgspec

from app_loader.call_messages import (
    LENGTH,
    MAX_RESULT,
    Answer,
    Answered,
    Broken,
    CallOrder,
    GuestFailed,
    Refused,
    Returned,
    answer_encoder,
    framed,
    order_decoder,
)
from app_loader.confinement import confine_to_folders
from app_loader.errors import CallFailedError, EngineError
from app_loader.instances import Instances
from app_loader.process_usage import own_usage
from app_loader.program import Program
from app_loader.runner_messages import Assignment, ProcessUsage
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.strict_json import decode_strictly

_OPEN_FILES = 64
_BLOCK = 256 * 1024
NO_ASSIGNMENT = Assignment(arguments=(), environment=(), memory=0, file_size=0, mounts=())
"""Of what only answers: no arguments, no environment, no folders."""


def serve_calls(program: Program, channel: socket.socket) -> None:
    """Answer the calls in `channel` until its other end is closed; the caller ends the process."""
    become_server()
    instances = Instances(program)
    while (packet := _receive(channel)) is not None:
        before = own_usage().cpu
        answer = _answer(program, instances, packet)
        after = own_usage()
        used = ProcessUsage(after.cpu - before, after.memory)
        channel.sendall(framed(answer_encoder.encode(Answered(answer, used, after.cpu))))


def become_server() -> None:
    """Give up all files; what a process that serves calls or requests does first."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    confine_to_folders(())


def _answer(program: Program, instances: Instances, packet: bytes) -> Answer:
    try:
        return _call(program, instances, order_decoder.decode(packet))
    except RefusalError as refusal:
        return Refused(refusal.code, refusal.detail, refusal.field, refusal.remedy)
    except CallFailedError as failed:
        return GuestFailed(failed.report)
    except EngineError as error:
        return Broken(str(error)[:4096])
    except RecursionError:
        return Refused(ErrorCode.FIELD_INVALID, "the arguments are nested too deeply", "$.arguments")


def _call(program: Program, instances: Instances, order: CallOrder) -> Answer:
    arguments = _arguments(order.arguments)
    keep = False
    try:
        context = instances.take(msgspec.structs.replace(NO_ASSIGNMENT, memory=order.memory), reuse=order.reuse)
        result = program.call(context, order.function, arguments, order.memory, instances.held)
        keep = order.reuse
    except RefusalError:
        keep = order.reuse  # nothing was called
        raise
    finally:
        if not keep:
            instances.discard()
    encoded = msgspec.json.encode(result)
    if len(encoded) > MAX_RESULT:
        detail = f"{order.function} returned {len(encoded)} bytes of JSON, {MAX_RESULT} are possible"
        raise RefusalError(ErrorCode.RESULT_TOO_LARGE, detail)
    return Returned(msgspec.Raw(encoded))


def _arguments(raw: msgspec.Raw) -> list[Any]:
    try:
        return decode_strictly(bytes(raw), list[Any])
    except msgspec.ValidationError as error:
        # Like "Number out of range - at `$[1]`".
        detail, _, where = str(error).partition(" - at `$")
        raise RefusalError(ErrorCode.FIELD_INVALID, detail, field=f"$.arguments{where.rstrip('`')}") from None
    except msgspec.DecodeError as error:
        raise RefusalError(ErrorCode.FIELD_INVALID, f"the arguments: {error}", field="$.arguments") from None


def _receive(channel: socket.socket) -> bytes | None:
    """One message, or None when there will be no more."""
    head = _exactly(channel, LENGTH.size)
    return None if head is None else _exactly(channel, LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    received = b""
    while len(received) < size:
        block = channel.recv(min(size - len(received), _BLOCK))
        if not block:
            return None
        received += block
    return received
