"""The Python runtime's main module, which componentize-py makes a component of: `python`, as far as a keep can be it.

What is imported here is in the component; nothing else can be imported by the programs that it runs.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import linecache
import os
import random
import sys
import types
from typing import NoReturn

import wasmkeep_modules
from wit_world import exports
from wit_world.imports import environment
from wit_world.imports import exit as wasi_exit

for _name in wasmkeep_modules.MODULES:
    importlib.import_module(_name)

_USAGE_ERROR = 2
_INTERRUPTED = 130
_BROKEN_STREAM = 120


class Run(exports.Run):  # type: ignore[misc]
    """`wasi:cli/run`: `PROGRAM -c SOURCE [ARGUMENT...]` or `PROGRAM FILE.py [ARGUMENT...]`."""

    def run(self) -> None:
        _start_afresh()
        _end(_execute(environment.get_arguments()))


def _start_afresh() -> None:
    """Forget what the component remembers of the time when it was made."""
    os.environ.clear()
    os.environ.update(environment.get_environment())
    random.seed()
    sys.path[:] = []
    # The one of wasi-libc tells nothing but success or failure.
    os._exit = _end_now


def _execute(arguments: list[str]) -> int:
    program, *others = arguments or ["python"]
    if others[:1] == ["-c"] and len(others) > 1:
        name, source, rest = program, others[1], others[2:]
    elif others:
        name, rest = others[0], others[1:]
        try:
            with open(name, encoding="utf-8-sig") as file:
                source = file.read()
        except (OSError, UnicodeDecodeError) as error:
            return _complain(f"{program}: can't open file {name!r}: {error}")
        sys.path.insert(0, os.path.dirname(name) or ".")
    else:
        return _complain(f"usage: {program} -c SOURCE [ARGUMENT...] | {program} FILE.py [ARGUMENT...]")
    sys.argv = [name, *rest]
    return _run(source, name)


def _run(source: str, name: str) -> int:
    """Run a program as `__main__`; its exit status, as CPython's."""
    # CPython passes over the mark of byte order with which some editors begin files.
    source = source.removeprefix("\ufeff")
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=name, __builtins__=builtins)
    sys.modules["__main__"] = main
    # Without an mtime the entry is never checked against a file, so tracebacks show lines of a source that is in none.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    status = 0
    try:
        exec(compile(source, name, "exec"), main.__dict__)
    except SystemExit as leaving:
        status = _status_of(leaving)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BaseException as error:
        status = 1
        _show(error)
    return _leave(status)


def _leave(status: int) -> int:
    """What CPython does at its end: what was registered for it, then the streams."""
    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        _show(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or _BROKEN_STREAM
    return status


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        # CPython takes what is beyond a C long for -1.
        return leaving.code & 0xFF if -(2**63) <= leaving.code < 2**63 else 0xFF
    return _complain(str(leaving.code), 1)


def _show(error: BaseException) -> None:
    """Its traceback from the program's first line on: the frames before are the runtime's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == _run.__code__.co_filename:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _complain(message: str, status: int = _USAGE_ERROR) -> int:
    print(message, file=sys.stderr)
    return status


def _end_now(status: int) -> NoReturn:
    """What `os._exit` is: the end at once, without what was registered for it and without a look at the streams."""
    wasi_exit.exit_with_code(status & 0xFF)
    raise AssertionError("exit-with-code has returned")


def _end(status: int) -> None:
    # `sys.exit` of this world would tell nothing but success or failure.
    if status:
        wasi_exit.exit_with_code(status)
