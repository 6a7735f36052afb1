"""`keepctl top`: what a keep's runs use while they do, and how many calls and requests it answers."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from keep_client import KeepClient
from keep_protocol.keep_api import Run, ServedCounts
from keep_protocol.states import RunState
from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import run_document, show_json, show_table
from testers.keepctl.quantities import duration, size_text

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

_CLEAR = "\x1b[H\x1b[2J"
_ENDED_SHOWN = 5


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    top = add_command(
        subparsers,
        "top",
        "show what a keep's runs use, and the calls and HTTP requests that it answers",
        _top,
        examples=("keepctl top prices", "keepctl top prices --once --json | jq '.runs[] | .usage'"),
        details=(
            "Shown are the runs that are queued or going and the last five that have ended; with --json all runs.\n"
            "Calls and HTTP requests are counted since the keep was started; `keepctl calls` lists the newest."
        ),
    )
    top.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(top)
    top.add_argument("--once", action="store_true", help="show it once, as --json does")
    top.add_argument("--every", metavar="TIME", type=duration, default=1.0, help="time between two looks (default: 1s)")


def _top(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        if options.json:
            show_json(_document(keep))
            return 0
        rates = _Rates()
        _show(keep, rates)
        while not options.once:
            time.sleep(options.every)
            if sys.stdout.isatty():
                print(_CLEAR, end="")
            _show(keep, rates)
            sys.stdout.flush()
    return 0


class _Rates:
    """How many have ended a second, between the last look and this one."""

    def __init__(self) -> None:
        self._looked: float | None = None
        self._ended: dict[str, int] = {}

    def of(self, counts: dict[str, ServedCounts]) -> dict[str, str]:
        now = time.monotonic()
        ended = {name: each.answered + each.failed + each.refused + each.abandoned for name, each in counts.items()}
        rates = dict.fromkeys(counts, "-")
        if self._looked is not None:
            # A keep that was started anew counts from nothing.
            grown = {name: max(0, count - self._ended[name]) for name, count in ended.items()}
            rates = {name: f"{count / (now - self._looked):.1f}" for name, count in grown.items()}
        self._looked, self._ended = now, ended
        return rates


def _document(keep: KeepClient) -> dict[str, Any]:
    status = keep.status()
    return {
        "runs": [run_document(run) for run in keep.list_runs().runs],
        "calls": status.calls,
        "requests": status.requests,
    }


def _show(keep: KeepClient, rates: _Rates) -> None:
    status = keep.status()
    counts = {"calls": status.calls, "http": status.requests}
    speeds = rates.of(counts)
    rows = [(name, *_counts(each), speeds[name]) for name, each in counts.items() if each != ServedCounts()]
    if rows:
        show_table(("", "ACTIVE", "WAITING", "ANSWERED", "FAILED", "REFUSED", "ABANDONED", "PER SECOND"), rows)
        print()
    runs = keep.list_runs().runs
    ended = [run for run in runs if run.state is RunState.EXITED]
    shown = [*(run for run in runs if run.state is not RunState.EXITED), *reversed(ended[-_ENDED_SHOWN:])]
    show_table(("RUN", "STATE", "WALL", "CPU", "CPU%", "MEMORY", "IN", "OUT", "EXIT"), [_row(run) for run in shown])


def _counts(counts: ServedCounts) -> tuple[str, ...]:
    return tuple(map(str, msgspec.structs.astuple(counts)))


def _row(run: Run) -> tuple[str, ...]:
    ending = "-" if run.exit is None else str(run.exit.reason)
    if (usage := run.usage) is None:
        return (run.id, run.state, *("-" for _ in range(6)), ending)
    share = usage.cpu / usage.wall * 100 if usage.wall else 0.0
    return (
        run.id,
        run.state,
        f"{usage.wall:.2f} s",
        f"{usage.cpu:.2f} s",
        f"{share:.0f}",
        size_text(usage.memory),
        size_text(usage.stdin),
        size_text(usage.output),
        ending,
    )
