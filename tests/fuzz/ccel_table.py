"""Fuzzes the reader of the ACPI table that says where the event log is."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.event_log import parse_ccel_table


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_ccel_table(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
