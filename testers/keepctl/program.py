"""The command line of `keepctl`: parsers, and errors as one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from keep_client import KeepClientError
from keep_protocol import __version__
from testers.deployment import error_line
from testers.keepctl import (
    attest,
    backends,
    calls,
    certificate,
    completion,
    configurations,
    egress,
    events,
    files,
    http,
    identities,
    inspection,
    keeps,
    policies,
    run,
    sealing,
    secrets,
    served,
    top,
    trust,
    verify,
    watch,
    workloads,
)
from testers.keepctl.command import add_common_options
from testers.keepctl.console import say

FAILURE = 1


def build_parser() -> argparse.ArgumentParser:
    """All of keepctl's options and sub-commands."""
    parser = argparse.ArgumentParser(
        prog="keepctl",
        description="Make keeps, and run WebAssembly in them.",
        epilog="examples:\n  keepctl --home .demo run hello.wasm\n  keepctl ls\n  keepctl run --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keepctl {__version__}")
    add_common_options(parser)
    parser.set_defaults(failure=FAILURE)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for subject in (
        keeps,
        backends,
        events,
        workloads,
        top,
        calls,
        served,
        configurations,
        http,
        inspection,
        run,
        files,
        secrets,
        sealing,
        egress,
        attest,
        trust,
        certificate,
        verify,
        watch,
        policies,
        identities,
    ):
        subject.register(subparsers)
    completion.register(subparsers, parser)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what stands behind `--` after `run` is the guest's."""
    own, guest = list(arguments), []
    if "--" in own and _command(own[: own.index("--")]) == "run":
        guest = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    options = build_parser().parse_args(own)
    options.guest_args = guest
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status; 2 (from argparse) for a command line that is not understood."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int = options.handler(options)
        sys.stdout.flush()
        return status
    except (KeepClientError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone; the interpreter must not complain when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return run.CLOSED_PIPE
        say(error_line(error))
        failure: int = options.failure
        return failure
    except KeyboardInterrupt:
        return 130


def _command(arguments: list[str]) -> str | None:
    """The sub-command: the first word that is neither a common option nor the value of one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_common_options(parser)
    _, rest = parser.parse_known_args(arguments)
    return rest[0] if rest else None
