"""Fuzzes the reader of SNP reports."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.snp.report import parse_report

from tests.unit.keep_attestation.snp.forge import fake_amd, mutated

_REPORT = fake_amd().vcek().report()


def target(data: bytes) -> None:
    # Random bytes hardly ever have a report's length, so a good report is changed by them, too.
    for candidate in (data, mutated(_REPORT, data)):
        try:
            report = parse_report(candidate)
        except MalformedEvidenceError:
            continue
        assert candidate.startswith(report.signed)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
