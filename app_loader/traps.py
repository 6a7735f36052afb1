"""What became of a guest that did not return: its trap, why, and where it was."""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_uint8, c_void_p

from app_loader.runner_messages import Report
from app_loader.wasmtime_binding import (
    ByteVector,
    PointerVector,
    library,
    peek_bytes,
    take_bytes,
    take_error,
)
from keep_protocol.states import ExitReason

_MAX_FRAMES = 32
_MAX_NAME = 128
_MAX_MESSAGE = 4096
_MAX_PLACE = 256
_FRAME = re.compile(r"^\s*(\d+):\s+0x[0-9a-f]+ - ")
_PLACE = re.compile(r"^\s+at (\S.*:\d+(?::\d+)?)$")
_UNKNOWN_OFFSET = 2**64 - 1
_NUMBERING = re.compile(r"^\d+: ")

# `wasmtime_trap_code_t`, trap.h, as far as a core module can meet them.
TRAPS = {
    0: "stack-overflow",
    1: "memory-out-of-bounds",
    2: "heap-misaligned",
    3: "table-out-of-bounds",
    4: "indirect-call-to-null",
    5: "bad-signature",
    6: "integer-overflow",
    7: "integer-division-by-zero",
    8: "bad-conversion-to-integer",
    9: "unreachable",
    10: "interrupt",
    11: "out-of-fuel",
    12: "atomic-wait-non-shared-memory",
    13: "null-reference",
    14: "array-out-of-bounds",
    15: "allocation-too-large",
    16: "cast-failure",
    49: "uncaught-exception",
}

# wasmtime/src/runtime/limits.rs and vm/memory.rs: all refusals of a store's limit have these words in common.
_LIMIT_WORDS = ("exceeds memory limits", "GC heap out of memory")

_TRAP_WORDS = (
    ("call stack exhausted", "stack-overflow"),
    ("out of bounds memory access", "memory-out-of-bounds"),
    ("memory fault at wasm address", "memory-out-of-bounds"),
    ("out of bounds table access", "table-out-of-bounds"),
    ("uninitialized element", "indirect-call-to-null"),
    ("indirect call type mismatch", "bad-signature"),
    ("integer overflow", "integer-overflow"),
    ("integer divide by zero", "integer-division-by-zero"),
    ("invalid conversion to integer", "bad-conversion-to-integer"),
    ("`unreachable` instruction executed", "unreachable"),
    ("null reference", "null-reference"),
    ("out of bounds array access", "array-out-of-bounds"),
    ("allocation size too large", "allocation-too-large"),
    ("cast failure", "cast-failure"),
    ("thrown Wasm exception", "uncaught-exception"),
)
"""How wasmtime words traps, wasmtime_environ's trap_encoding.rs."""


def failure(error: int | None, trap: c_void_p, exit_code: int | None, *, full: bool) -> Report:
    """The report on a guest that did not return, which frees `error`.

    `exit_code` is what it exited with, if it did; `full` says that its memory had reached its limit.
    """
    if exit_code is not None:
        if error:
            take_error(error)
        return exited(exit_code, full=full)
    code = c_uint8()
    if trap:
        message, frames = _trap_message(trap), _frames("wasm_trap_trace", trap.value)
        name = TRAPS.get(code.value) if library().wasmtime_trap_code(trap, byref(code)) else None
    else:
        frames, message, name = _frames("wasmtime_error_wasm_trace", error), take_error(error or 0), None
    # Errors of components carry no code, nor do exceptions that nobody catches; both are told in words.
    name = name or next((trap_name for words, trap_name in _TRAP_WORDS if words in message), None)
    frames = _with_places(frames, message)
    if full or any(words in message for words in _LIMIT_WORDS):
        return Report(ExitReason.MEMORY, trap=name, message=_cause(message), backtrace=frames)
    return Report(ExitReason.TRAP, trap=name, message=_cause(message), backtrace=frames)


def exited(code: int, *, full: bool) -> Report:
    """The report on a guest that ended itself."""
    if full and code != 0:
        message = f"the guest ended with code {code} after its memory had reached the limit"
        return Report(ExitReason.MEMORY, code=code, message=message)
    return Report(ExitReason.CODE, code=code)


def _trap_message(trap: c_void_p) -> str:
    vector = ByteVector()
    library().wasm_trap_message(trap, byref(vector))
    return take_bytes(vector).rstrip(b"\0").decode(errors="replace")


def _cause(message: str) -> str:
    """The causes without the backtrace before them: one line, or several that are numbered."""
    _, _, causes = message.rpartition("Caused by:")
    lines = (_NUMBERING.sub("", line.strip()) for line in causes.splitlines())
    return ": ".join(line for line in lines if line)[:_MAX_MESSAGE] or "wasmtime gave no reason"


def _with_places(frames: tuple[str, ...], message: str) -> tuple[str, ...]:
    """File, line and column behind each frame of a module that carries DWARF: only wasmtime's text has them.

    Of functions that were inlined into each other, the innermost.
    """
    trace, _, _ = message.rpartition("Caused by:")
    places: dict[int, str] = {}
    index = -1
    for line in trace.splitlines():
        if numbered := _FRAME.match(line):
            index = int(numbered[1])
        elif place := _PLACE.match(line):
            places.setdefault(index, place[1][:_MAX_PLACE])
    return tuple(f"{frame} at {places[index]}" if index in places else frame for index, frame in enumerate(frames))


def _frames(function: str, owner: int | None) -> tuple[str, ...]:
    """Innermost first: `module!function+offset`, the offset in bytes from the start of the `.wasm`."""
    wasmtime = library()
    vector = PointerVector()
    getattr(wasmtime, function)(owner, byref(vector))
    frames = [_frame(vector.data[index]) for index in range(min(vector.size, _MAX_FRAMES))]
    if vector.size > _MAX_FRAMES:
        frames.append(f"… {vector.size - _MAX_FRAMES} more")
    return tuple(frames)


def _frame(frame: int) -> str:
    wasmtime = library()
    module = _name(wasmtime.wasmtime_frame_module_name(frame)) or "main"
    function = _name(wasmtime.wasmtime_frame_func_name(frame)) or f"function[{wasmtime.wasm_frame_func_index(frame)}]"
    offset = wasmtime.wasm_frame_module_offset(frame)
    # Unknown where a function was entered and had no stack left for its first instruction.
    return f"{module}!{function}" + (f"+{offset:#x}" if offset != _UNKNOWN_OFFSET else "")


def _name(vector: ctypes._Pointer[ByteVector]) -> str:
    return peek_bytes(vector.contents).decode(errors="replace")[:_MAX_NAME] if vector else ""
