"""`keepctl backends`: what keeps can be made of on a host, and what it lacks where they cannot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from keep_protocol.manager_api import AttesterInfo, BackendInfo
from testers.deployment import Deployment, printable
from testers.keepctl.command import add_command
from testers.keepctl.console import show_json

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Declare this command."""
    add_command(
        subparsers,
        "backends",
        "show what the host can make keeps of, check by check",
        _backends,
        examples=("keepctl backends", "keepctl backends --json"),
    )


def _backends(options: argparse.Namespace) -> int:
    with Deployment.from_options(options).connect() as manager:
        found = manager.backends()
    if options.json:
        show_json(found)
        return 0
    for backend in found.backends:
        _show(backend.name, backend)
    for attester in found.attesters:
        _show(f"evidence {attester.kind} of process keeps", attester)
    return 0


def _show(title: str, info: BackendInfo | AttesterInfo) -> None:
    print(f"{title}: {'available' if info.available else 'not available'}")
    for check in info.checks:
        mark, text = ("ok", check.info) if check.passed else ("--", check.message)
        print(f"  {mark}  {printable(check.name):<18}  {printable(text)}".rstrip())
