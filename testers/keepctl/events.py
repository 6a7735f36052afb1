"""`keepctl events`: what happened, and what happens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keep_client import InvalidArgumentError, ManagerClient
from keep_protocol.manager_api import Event
from keep_protocol.network_api import KeepEvent
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import show_json, show_json_line

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    events = add_command(
        subparsers,
        "events",
        "show what happened to keeps",
        _events,
        examples=(
            "keepctl events",
            "keepctl events --since 120 --json",
            "keepctl events --follow",
            "keepctl events --keep prices",
        ),
        details="With --json a list, with --follow --json one document a line. --follow survives restarts of the\n"
        "manager. With --keep the keep itself is asked: what it has denied since it was started, which runs\n"
        "have ended, which calls and HTTP requests have failed, and what they used.",
    )
    events.add_argument("--keep", metavar="KEEP", help="ask this keep instead of the manager")
    events.add_argument("--since", metavar="CURSOR", type=int, default=0, help="only what came after this event")
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens from now on")
    add_policy_option(events)


def _events(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager:
        if options.keep is not None:
            return _of_keep(manager, deployment, options)
        if options.follow:
            for event in manager.events(options.since):
                _show(event, json=options.json)
            return 0
        events = _all_since(manager, options.since)
    if options.json:
        show_json(events)
    else:
        for event in events:
            _show(event, json=False)
    return 0


def _of_keep(manager: ManagerClient, deployment: Deployment, options: argparse.Namespace) -> int:
    if options.follow:
        raise InvalidArgumentError("--follow is for the manager's events")
    events: list[KeepEvent] = []
    cursor = options.since
    with open_keep(manager, deployment, options.keep, options.policy) as keep:
        while (page := keep.list_events(cursor)).events:
            events += page.events
            cursor = page.next
    if options.json:
        show_json(events)
    else:
        for event in events:
            print(printable("  ".join((str(event.cursor), event.at, event.kind, _detail(event.detail)))), flush=True)
    return 0


def _all_since(manager: ManagerClient, cursor: int) -> list[Event]:
    events: list[Event] = []
    while (page := manager.list_events(cursor)).events:
        events += page.events
        cursor = page.next
    return events


def _show(event: Event, *, json: bool) -> None:
    if json:
        show_json_line(event)
        return
    words = (str(event.cursor), event.at, event.kind, event.keep or "-", event.actor or "-", _detail(event.detail))
    print(printable("  ".join(words).rstrip()), flush=True)


def _detail(detail: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(detail.items()))
