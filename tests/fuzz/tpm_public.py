"""Fuzzes the reader of TPM public keys."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.tpm.structures import parse_public


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_public(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
