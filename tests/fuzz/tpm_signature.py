"""Fuzzes the reader of TPM signatures."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.tpm.structures import parse_signature


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_signature(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
