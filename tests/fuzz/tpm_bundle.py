"""Fuzzes the reader of TPM evidence."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.tpm.bundle import decode_bundle


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        decode_bundle(data)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
