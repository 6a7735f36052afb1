"""`keepctl call`: one function of a keep's workload."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

import msgspec

from keep_client import Called, KeepClient, ProblemError
from keep_protocol.errors import ErrorCode
from testers.deployment import Deployment, error_line, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_json_line
from testers.keepctl.quantities import duration, size
from testers.keepctl.served import figures

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

_FAILED = 1
_ARGUMENT = re.compile(r"\$\.arguments\[([0-9]{1,9})\]", re.ASCII)


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    call = add_command(
        subparsers,
        "call",
        "call an exported function of a keep's workload",
        _call,
        examples=(
            "keepctl call prices add 40 2",
            "keepctl call shapes 'wasmkeep:geometry/figures@1.0.0#area' '{\"circle\": 1.5}'",
            "keepctl call prices total -- -1e3 '[1, 2, 3]'",
        ),
        details=(
            "Each argument is JSON; what is no JSON is a string, and so is what the parameter does not take as JSON:\n"
            'for a string parameter 42 is "42", and \'"42"\', in quotes of its own, is the same. The result is JSON.\n'
            "Every call has an instance of its own. `keepctl inspect KEEP` lists what can be called."
        ),
    )
    call.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(call)
    call.add_argument("function", metavar="FUNCTION", help="its name, or INTERFACE#NAME of an exported interface")
    call.add_argument("arguments", metavar="ARG", nargs="*", help="one for each parameter, as JSON")
    call.add_argument("--timeout", metavar="TIME", type=duration, help="time for the call, such as 5s")
    call.add_argument("--usage", action="store_true", help="say on standard error what the call used")
    call.add_argument("--memory", metavar="SIZE", type=size, help="memory of the guest, such as 64M")


def _call(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        try:
            called = _called(keep, options)
        except ProblemError as problem:
            if not problem.backtrace:
                raise
            say("\n    ".join((error_line(problem), *map(printable, problem.backtrace))))
            return _FAILED
    show_json_line(called.result)
    if options.usage and called.usage is not None:
        say(", ".join(f"{name} {value}" for name, value in figures(called.usage).items()))
    return 0


def _called(keep: KeepClient, options: argparse.Namespace) -> Called:
    """Arguments that the function refuses as JSON are tried as the strings that they are, too.

    So `words 42` needs no quotes within quotes. The guest is not called while an argument is refused.
    """
    arguments = [_value(argument) for argument in options.arguments]
    refused: dict[int, ProblemError] = {}
    while True:
        try:
            return keep.measured_call(options.function, arguments, timeout=options.timeout, memory=options.memory)
        except ProblemError as problem:
            index = _refused_argument(problem)
            if index is None or index >= len(arguments):
                raise
            if index in refused or isinstance(arguments[index], str):
                raise refused.get(index, problem) from None
            refused[index] = problem
            arguments[index] = options.arguments[index]


def _refused_argument(problem: ProblemError) -> int | None:
    """Which argument as a whole is not what the function takes."""
    match = _ARGUMENT.fullmatch(problem.field or "") if problem.code == ErrorCode.FIELD_INVALID else None
    return None if match is None else int(match[1])


def _value(argument: str) -> Any:
    try:
        return msgspec.json.decode(argument)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return argument
