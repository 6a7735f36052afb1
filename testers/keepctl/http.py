"""`keepctl http` and `http-log`: one HTTP request to a keep's workload, and what it printed meanwhile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keep_client import ProblemError, WorkloadResponse
from testers.deployment import Deployment, error_line, printable
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import say, show_json
from testers.keepctl.streams import STDIN, STDOUT, file_chunks, read_chunks, write_all

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

_FAILED = 1


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    http = add_command(
        subparsers,
        "http",
        "send an HTTP request to a keep's workload",
        _http,
        examples=(
            "keepctl http shop /",
            "keepctl http shop '/orders?open=1' -i",
            "keepctl http shop /orders -X PUT -H 'content-type: application/json' -d @order.json",
            "keepctl http shop /echo -d @- < photo.jpg > same.jpg",
        ),
        details=(
            "The body of the response goes to standard output, unchanged and as it comes.\n"
            "The status is 0 for every response of the workload, and 1 where the keep has none."
        ),
    )
    http.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(http)
    http.add_argument("path", metavar="PATH", help="from `/`, with an optional query")
    http.add_argument("-X", "--method", metavar="METHOD", help="GET without --data, otherwise POST")
    http.add_argument(
        "-H", "--header", metavar="NAME: VALUE", action="append", default=[], type=_header, help="may be repeated"
    )
    http.add_argument("-d", "--data", metavar="DATA", help="the body: text, @FILE, or @- for standard input")
    http.add_argument("-i", "--include", action="store_true", help="show status and headers before the body")
    log = add_command(
        subparsers,
        "http-log",
        "show what a keep's workload printed while it answered HTTP requests",
        _log,
        examples=("keepctl http-log shop",),
        details="The newest 256 KiB since the keep was started; only its owners see them.",
    )
    log.add_argument("keep", metavar="KEEP", help="id or name")
    add_policy_option(log)


def _log(options: argparse.Namespace) -> int:
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        lines = keep.http_log()
    if options.json:
        show_json({"lines": lines.decode(errors="replace").splitlines()})
    elif sys.stdout.isatty():
        print("\n".join(map(printable, lines.decode(errors="replace").expandtabs().splitlines())))
    else:
        write_all(STDOUT, lines)
    return 0


def _http(options: argparse.Namespace) -> int:
    method = options.method or ("GET" if options.data is None else "POST")
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        try:
            with keep.http(method, options.path, headers=dict(options.header), body=_body(options.data)) as response:
                if options.include:
                    write_all(STDOUT, _head(response))
                for chunk in response:
                    write_all(STDOUT, chunk)
        except ProblemError as problem:
            say("\n    ".join((error_line(problem), *map(printable, problem.backtrace))))
            return _FAILED
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!a} is no header: expected 'NAME: VALUE'")
    return name.strip(), value.strip()


def _body(data: str | None) -> bytes | Iterator[bytes] | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    if data == "@-":
        return read_chunks(STDIN)
    return file_chunks(Path(data[1:]))


def _head(response: WorkloadResponse) -> bytes:
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in response.headers)]
    return ("\n".join(map(printable, lines)) + "\n\n").encode()
