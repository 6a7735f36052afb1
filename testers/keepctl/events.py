"""`keepctl events`: what happened, and what happens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keep_client import ManagerClient
from keep_protocol.manager_api import Event
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command
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
        examples=("keepctl events", "keepctl events --since 120 --json", "keepctl events --follow"),
        details="With --json a list, with --follow --json one document a line. --follow survives restarts of the\n"
        "manager.",
    )
    events.add_argument("--since", metavar="CURSOR", type=int, default=0, help="only what came after this event")
    events.add_argument("--follow", "-f", action="store_true", help="go on with what happens from now on")


def _events(options: argparse.Namespace) -> int:
    with Deployment.from_options(options).connect() as manager:
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
    detail = " ".join(f"{name}={value}" for name, value in sorted(event.detail.items()))
    words = (str(event.cursor), event.at, event.kind, event.keep or "-", event.actor or "-", detail)
    print(printable("  ".join(words).rstrip()), flush=True)
