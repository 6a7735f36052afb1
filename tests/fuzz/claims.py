"""Fuzzes the reader of claims, and CBOR below it: what is read is what would be written."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.cbor import decode_cbor, strip_tag
    from keep_attestation.claims import decode_claims
    from keep_attestation.errors import MalformedEvidenceError

from keep_protocol.evidence import encode_claims


def target(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        assert encode_claims(decode_claims(data)) == data
    for allow_indefinite in (False, True):
        with contextlib.suppress(MalformedEvidenceError):
            decode_cbor(data, "fuzzed", allow_indefinite=allow_indefinite)
    strip_tag(data, 18)


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
