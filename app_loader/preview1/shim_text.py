"""The three small modules between a guest and WASI, as WebAssembly text.

SHIM stands in for WASI when the guest is instantiated: each of its functions calls what a table holds. ADAPTER fills
the table once the guest's memory is there: it asks HOLD whether a descriptor is ours, and calls the host or WASI.
HOLD keeps that mark for each descriptor, and reserves numbers in WASI's own table, so that none is given twice.

Wasmtime's WASI works on the memory that the *calling instance* exports as "memory". So the adapter exports the guest's;
with another one, calls succeed and silently write elsewhere.
"""

from __future__ import annotations

from typing import Final

WASI: Final = "wasi"
HOST: Final = "host"
HOLD: Final = "hold"

PARAMETERS: Final = {
    "fd_close": 1,
    "fd_fdstat_get": 2,
    "fd_fdstat_set_flags": 2,
    "fd_filestat_get": 2,
    "fd_prestat_get": 2,
    "fd_read": 4,
    "fd_renumber": 2,
    "fd_write": 4,
    "poll_oneoff": 4,
    "sock_accept": 3,
    "sock_recv": 6,
    "sock_send": 5,
    "sock_shutdown": 2,
}
"""How many parameters each function has that is answered here; all are i32, and so is the one result, an errno."""

MARKED: Final = 32768
"""Descriptors that can be ours are below this: HOLD has a byte for each."""

_PLACE: Final = MARKED
"""Where HOLD's memory has what it needs besides: "." and results."""

_SUBSCRIPTION: Final = 48


def shim() -> str:
    """Imports nothing; exports the functions, and the table as "table"."""
    functions = "\n".join(
        f'(func (export "{name}") {_type(name)} (call_indirect 0 {_type(name)} {_arguments(name)} (i32.const {slot})))'
        for slot, name in enumerate(PARAMETERS)
    )
    return f'(module (table (export "table") {len(PARAMETERS)} {len(PARAMETERS)} funcref)\n{functions})'


def hold() -> str:
    """Imports from WASI alone. All its functions but `now` and `marked` return a result or a negative errno."""
    return f"""(module
      (import "{WASI}" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (import "{WASI}" "fd_close" (func $close (param i32) (result i32)))
      (import "{WASI}" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
      (import "{WASI}" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
      (import "{WASI}" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
      (memory (export "memory") 1 1)
      (data (i32.const {_PLACE}) ".")
      (func (export "marked") (param i32) (result i32)
        (if (result i32) (i32.lt_u (local.get 0) (i32.const {MARKED}))
          (then (i32.load8_u (local.get 0)))
          (else (i32.const 0))))
      (func (export "mark") (param i32 i32) (result i32)
        (i32.store8 (local.get 0) (local.get 1)) (i32.const 0))
      (func (export "reserve") (param i32) (result i32) (local i32)
        (local.set 1 (call $open (local.get 0) (i32.const 0) (i32.const {_PLACE}) (i32.const 1) (i32.const 2)
          (i64.const 0) (i64.const 0) (i32.const 0) (i32.const {_PLACE + 16})))
        (if (result i32) (local.get 1)
          (then (i32.sub (i32.const 0) (local.get 1)))
          (else (i32.load (i32.const {_PLACE + 16})))))
      (func (export "close") (param i32) (result i32) (i32.sub (i32.const 0) (call $close (local.get 0))))
      (func (export "renumber") (param i32 i32) (result i32)
        (i32.sub (i32.const 0) (call $renumber (local.get 0) (local.get 1))))
      (func (export "valid") (param i32) (result i32)
        (i32.sub (i32.const 0) (call $stat (local.get 0) (i32.const {_PLACE + 32}))))
      (func (export "now") (result i64)
        (drop (call $time (i32.const 1) (i64.const 0) (i32.const {_PLACE + 24})))
        (i64.load (i32.const {_PLACE + 24}))))"""


def adapter() -> str:
    """Imports the functions from WASI and from the host, HOLD's `marked`, the guest's memory and the shim's table."""
    parts = ["(module"]
    for name in PARAMETERS:
        parts.append(f'(import "{WASI}" "{name}" (func $native_{name} {_type(name)}))')
    for name in PARAMETERS:
        parts.append(f'(import "{HOST}" "{name}" (func $host_{name} {_type(name)}))')
    parts.append(f'(import "{HOLD}" "marked" (func $marked (param i32) (result i32)))')
    parts.append('(import "guest" "memory" (memory 0))')
    parts.append(f'(import "shim" "table" (table $table {len(PARAMETERS)} funcref))')
    parts.append('(export "memory" (memory 0))')
    parts.extend(_DISPATCHERS.get(name, _by_first)(name) for name in PARAMETERS)
    functions = " ".join(f"$any_{name}" for name in PARAMETERS)
    parts.append(f"(elem (table $table) (i32.const 0) func {functions})")
    return "\n".join(parts) + ")"


def _type(name: str) -> str:
    return f"(param {' '.join(['i32'] * PARAMETERS[name])}) (result i32)"


def _arguments(name: str) -> str:
    return " ".join(f"(local.get {index})" for index in range(PARAMETERS[name]))


def _by_first(name: str) -> str:
    """Most functions have the descriptor first."""
    return _dispatch(name, "(call $marked (local.get 0))")


def _dispatch(name: str, condition: str) -> str:
    return (
        f"(func $any_{name} {_type(name)} (if (result i32) {condition} "
        f"(then (call $host_{name} {_arguments(name)})) (else (call $native_{name} {_arguments(name)}))))"
    )


def _renumber(name: str) -> str:
    return _dispatch(name, "(i32.or (call $marked (local.get 0)) (call $marked (local.get 1)))")


def _poll(name: str) -> str:
    """One descriptor of ours among the subscriptions is enough. Loads beyond the guest's memory trap, as they may."""
    return f"""(func $any_{name} {_type(name)} (local $index i32) (local $place i32)
      (local.set $place (local.get 0))
      (block $none (loop $next
        (br_if $none (i32.ge_u (local.get $index) (local.get 2)))
        (if (i32.load8_u offset=8 (local.get $place)) (then
          (if (call $marked (i32.load offset=16 (local.get $place))) (then
            (return (call $host_{name} {_arguments(name)}))))))
        (local.set $place (i32.add (local.get $place) (i32.const {_SUBSCRIPTION})))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br $next)))
      (call $native_{name} {_arguments(name)}))"""


_DISPATCHERS = {"fd_renumber": _renumber, "poll_oneoff": _poll}
