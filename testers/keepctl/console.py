"""What a person or a machine gets to see: tables and colours on a terminal, JSON where asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from keep_client.sources import Progress
from keep_protocol.keep_api import Run
from testers.deployment import printable

_STYLES = {
    "ready": "green",
    "loaded": "green",
    "running": "green",
    "verified now": "green",
    "verified by probe": "green",
    "starting": "yellow",
    "creating": "yellow",
    "stopping": "yellow",
    "not testable": "yellow",
    "failed": "red",
    "not effective": "red",
    "trap": "red",
}

WORTH_A_BAR = 4 * 1024 * 1024
"""Bytes from which an upload shows its progress."""


WIDEST = 4096
"""Columns of a table; no terminal has as many."""


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show_json_line(value: Any) -> None:
    """One line of JSON on standard output, at once."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def run_document(run: Run) -> dict[str, Any]:
    """A run for machines: fields that the wire leaves out are null here."""
    parts = {"exit": run.exit, "usage": run.usage}
    return msgspec.structs.asdict(run) | {
        name: None if part is None else msgspec.structs.asdict(part) for name, part in parts.items()
    }


def show_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headers; aligned text when standard output is no terminal."""
    cleaned = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _show_rich_table(headers, cleaned)
        return
    widths = [max(len(row[index]) for row in (headers, *cleaned)) for index in range(len(headers))]
    for row in (headers, *cleaned):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show_rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Text, because rich would read [markup] in strings.
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    # As wide as it needs to be, as in `kubectl get`: ids that are cut short are of no use.
    Console(width=WIDEST).print(table, crop=False, soft_wrap=True)


def show_fields(fields: dict[str, str | None]) -> None:
    """Names and values, one a line; those without a value are left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            print(f"{name.ljust(width)}  {printable(value)}")


def say(message: str) -> None:
    """One line on standard error."""
    print(f"keepctl: {message}", file=sys.stderr, flush=True)


@contextmanager
def upload_bar(label: str, size: int) -> Iterator[Progress | None]:
    """A progress bar on standard error for as long as the upload takes; None when nobody would see it."""
    if size < WORTH_A_BAR or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    # TextColumn without markup: file names may contain brackets.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(label), total=size)
        yield lambda sent: bar.update(task, completed=sent)
