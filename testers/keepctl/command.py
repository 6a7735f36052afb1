"""How sub-commands are declared: a parser with examples, the options that all share, and a handler."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from testers.deployment import add_connection_options

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Handler = Callable[[argparse.Namespace], int]
"""Carries a command out and returns the exit status."""


def add_command(
    subparsers: Subparsers, name: str, summary: str, handler: Handler, *, examples: Sequence[str], details: str = ""
) -> argparse.ArgumentParser:
    """A parser for one sub-command. `examples` are command lines."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f"\n\n{details}" if details else ""),
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common_options(parser, default=argparse.SUPPRESS)
    parser.set_defaults(handler=handler)
    return parser


def add_common_options(parser: argparse.ArgumentParser, *, default: object = None) -> None:
    """The options that may stand before and after the sub-command.

    A sub-command's own copy needs the default `argparse.SUPPRESS`, or it would undo what stood before it.
    """
    add_connection_options(parser, default=default)
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="machine-readable output on standard output",
    )


def add_policy_option(parser: argparse.ArgumentParser) -> None:
    """`--policy`, for commands that judge evidence."""
    parser.add_argument("--policy", metavar="FILE", type=Path, help="what evidence must satisfy (keepctl policy init)")
