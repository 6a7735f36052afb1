"""`make bench`: measures every subject and writes docs/benchmarks.md; `--only` and `--quick` print instead."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    attestation,
    attested_handshake,
    attested_start,
    calls,
    cold_start,
    cpu,
    http,
    machine,
    memory,
    rediscovery,
    report,
    second_load,
    sockets,
    upload,
    virtual_machines,
    warm_run,
)
from benchmarks.measurement import Omission, Row
from benchmarks.session import Session

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

SUBJECTS: dict[str, Callable[[Session], list[Row | Omission]]] = {
    "cold_start": cold_start.measure,
    "warm_run": warm_run.measure,
    "calls": calls.measure,
    "http": http.measure,
    "cpu": cpu.measure,
    "memory": memory.measure,
    "rediscovery": rediscovery.measure,
    "sockets": sockets.measure,
    "upload": upload.measure,
    "second_load": second_load.measure,
    "attestation": attestation.measure,
    "attested_handshake": attested_handshake.measure,
    "attested_start": attested_start.measure,
    "virtual_machines": virtual_machines.measure,
}

ROUNDS = 20
QUICK_ROUNDS = 3
SILENCE_PATIENCE = 60.0
"""Seconds to wait for others to stop computing before a subject."""


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for; 0 when all of it could be measured, whether targets are reached or not."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("benchmarks: start this as root; only then does a keep have all of its sandbox", file=sys.stderr)
        return 2
    rows: list[Row | Omission] = []
    facts = machine.describe()
    # Keeps run under users of their own, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="wkb") as folder:
        for name in options.only or SUBJECTS:
            if not options.quick:
                share = machine.wait_for_silence(SILENCE_PATIENCE)
                facts[f"load by others before {name}"] = f"{share * 100:.0f} % of all processors"
            with tempfile.TemporaryDirectory(dir=folder) as place:
                rows += _measure(name, Session(Path(place), QUICK_ROUNDS if options.quick else ROUNDS, options.quick))
    measured = report.render(rows, facts)
    print(measured)
    if not options.only and not options.quick:
        report.insert(DOCUMENT, measured)
        print(f"\nwritten to {DOCUMENT.relative_to(DOCUMENT.parents[1])}")
    return 0


def _measure(name: str, session: Session) -> list[Row | Omission]:
    print(f"{name} …", file=sys.stderr, flush=True)
    started = time.monotonic()
    rows = SUBJECTS[name](session)
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=SUBJECTS,
        metavar="SUBJECT",
        help=f"one of {', '.join(SUBJECTS)}; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="few readings of small things, to try a subject out")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
