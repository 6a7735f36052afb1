"""Fuzzes the reader of Azure's HCL reports."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.azure.hcl import parse_hcl_report
    from keep_attestation.errors import MalformedEvidenceError


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_hcl_report(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
