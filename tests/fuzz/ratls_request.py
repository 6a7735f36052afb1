"""Fuzzes the reader of certification requests with evidence."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.ratls.certificate import read_ratls_request
    from keep_attestation.ratls.presentation import Convention


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        read_ratls_request(data, accept=frozenset({Convention.ENARX}))


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
