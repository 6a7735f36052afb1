"""Fuzzes the readers of certificate tables, of replies of Azure's certificate service, and of PEM chains."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.snp.certificate_table import (
        endorsements_of_pem,
        endorsements_of_table,
        endorsements_of_thim,
    )


def target(data: bytes) -> None:
    for read in (endorsements_of_table, endorsements_of_thim, endorsements_of_pem):
        with contextlib.suppress(MalformedEvidenceError):
            read(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
