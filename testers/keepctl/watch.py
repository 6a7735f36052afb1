"""`keepctl watch`: has a keep prove itself again and again, and says or acts when it does not."""

from __future__ import annotations

import argparse
from enum import StrEnum
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError, KeepClient, KeepClientError, WatchReport, WatchState, watch_keep
from testers.deployment import Deployment, error_line, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_json_line
from testers.keepctl.named_choices import word_of
from testers.keepctl.quantities import whole_duration

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

FAILED = 1


class Action(StrEnum):
    """What follows when a keep has failed for good."""

    WARN = "warn"
    STOP = "stop"


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    watch = add_command(
        subparsers,
        "watch",
        "verify a keep again and again",
        _watch,
        examples=("keepctl watch prices", "keepctl watch prices --interval 5m --failures 0 --action stop --json"),
        details="Every round is a new connection with fresh evidence, or a comparison with the pinned key. A keep\n"
        "that cannot be verified more often in a row than is allowed has failed, and stays so: the watch ends with\n"
        "status 1, after stopping the keep if that is the action. With --json one document a line.",
    )
    watch.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(watch)
    watch.add_argument(
        "--interval", metavar="TIME", type=whole_duration, default=60, help="between rounds (default: 60s)"
    )
    watch.add_argument(
        "--failures", metavar="N", type=int, default=2, help="rounds in a row that may fail (default: 2)"
    )
    watch.add_argument(
        "--action", type=word_of(Action), choices=tuple(Action), default=Action.WARN, help="on failure (warn)"
    )


def _watch(options: argparse.Namespace) -> int:
    if options.failures < 0:
        raise InvalidArgumentError("--failures is a number of rounds, 0 or more")
    deployment = Deployment.from_options(options)

    def connect() -> KeepClient:
        with deployment.connect() as manager:
            return open_keep(manager, deployment, options.keep, options.policy)

    reports = watch_keep(connect, options.keep, interval=options.interval, failures_allowed=options.failures)
    for report in reports:
        _show(report, json=options.json)
        if report.state is WatchState.FAILED and options.action is Action.STOP:
            _stop(deployment, options.keep)
    return FAILED


def _stop(deployment: Deployment, keep: str) -> None:
    try:
        with deployment.connect() as manager:
            manager.stop_keep(keep)
        say(f"keep {keep} is stopped: it was not what it should be")
    except KeepClientError as error:
        say(f"keep {keep} could not be stopped: {error_line(error)}")


def _show(report: WatchReport, *, json: bool) -> None:
    if json:
        show_json_line(report)
        return
    print(f"{report.at:%Y-%m-%dT%H:%M:%SZ}  {report.keep}  {report.state}  {printable(report.reason)}", flush=True)
