"""Fuzzes the reader of Intel's collateral."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.intel.collateral import parse_collateral


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_collateral(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
