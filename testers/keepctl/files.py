"""`keepctl put|get`: files and folders of a keep."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import show_json
from testers.keepctl.fetching import fetch
from testers.keepctl.guest_paths import Location, locate
from testers.keepctl.sending import entries_of, send, send_file, standard_input

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

STANDARD_STREAM = "-"


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    put = add_command(
        subparsers,
        "put",
        "send a file or a folder to a keep",
        _put,
        examples=("keepctl put prices text.txt /input/text.txt", "tar c . | keepctl put prices - /input/all.tar"),
        details="GUEST is a path in /input, /output or /data; one that ends in / is a folder to put LOCAL into.",
    )
    put.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(put)
    put.add_argument("local", metavar="LOCAL", help="file or folder; - for standard input")
    put.add_argument("guest", metavar="GUEST", help="where guests see it")
    get = add_command(
        subparsers,
        "get",
        "fetch a file or a folder from a keep",
        _get,
        examples=("keepctl get prices /output/result.txt result.txt", "keepctl get prices /output results"),
        details="Existing local files are replaced, links never followed.",
    )
    get.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(get)
    get.add_argument("guest", metavar="GUEST", help="a path in /input, /output or /data")
    get.add_argument("local", metavar="LOCAL", help="file or folder; - for standard output")


def sent_to(local: str, guest: str, place: Location) -> Location:
    """Where LOCAL goes: to `place`, or into it when `guest` ends in a slash."""
    return place.joined(Path(local).resolve().name) if guest.endswith("/") else place


def _put(options: argparse.Namespace) -> int:
    place = locate(options.guest)
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        if options.local == STANDARD_STREAM:
            with standard_input() as source:
                send_file(keep, source, place)
        else:
            place = sent_to(options.local, options.guest, place)
            send(keep, entries_of(Path(options.local)), place)
    if options.json:
        show_json({"area": place.area, "path": place.path})
    return 0


def _get(options: argparse.Namespace) -> int:
    place = locate(options.guest)
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        if options.local == STANDARD_STREAM:
            for chunk in keep.read_file(place.area, place.path):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return 0
        fetch(keep, place, Path(options.local))
    if options.json:
        show_json({"local": options.local})
    return 0
