"""`keepctl calls`: the newest calls of a keep's functions, or HTTP requests to its workload, and what they used."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keep_protocol.keep_api import ServedUsage
from keep_protocol.served_api import CallRecord, RequestRecord
from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import show_json, show_table
from testers.keepctl.quantities import size_text

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

_FIGURES = ("WALL", "CPU", "MEMORY", "IN", "OUT")


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    calls = add_command(
        subparsers,
        "calls",
        "show the newest calls of a keep's functions, or HTTP requests, and what they used",
        _calls,
        examples=(
            "keepctl calls prices",
            "keepctl calls shop --http --json | jq '.[] | select(.outcome != \"answered\")'",
        ),
        details="The newest 256 of this life of the keep, in the order of their ends.",
    )
    calls.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(calls)
    calls.add_argument("--http", action="store_true", help="HTTP requests to the workload instead of calls")


def _calls(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        if options.http:
            requests = keep.list_http_requests().requests
        else:
            calls = keep.list_calls().calls
    if options.json:
        show_json(requests if options.http else calls)
    elif options.http:
        rows = [(each.at, each.method, each.path, _status(each), *_ending(each)) for each in requests]
        show_table(("AT", "METHOD", "PATH", "STATUS", "OUTCOME", *_FIGURES), rows)
    else:
        show_table(
            ("AT", "FUNCTION", "OUTCOME", *_FIGURES), [(each.at, each.function, *_ending(each)) for each in calls]
        )
    return 0


def _status(record: RequestRecord) -> str:
    return "-" if record.status is None else str(record.status)


def _ending(record: CallRecord | RequestRecord) -> tuple[str, ...]:
    if (usage := record.usage) is None:
        return (record.outcome, *("-" for _ in _FIGURES))
    return (record.outcome, *figures(usage).values())


def figures(usage: ServedUsage) -> dict[str, str]:
    """Names and values for people."""
    return {
        "wall": f"{usage.wall * 1000:.2f} ms",
        "cpu": f"{usage.cpu * 1000:.2f} ms",
        "memory": size_text(usage.memory),
        "in": size_text(usage.input),
        "out": size_text(usage.output),
    }
