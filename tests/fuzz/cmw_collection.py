"""Fuzzes the readers of conceptual message wrappers, of collections of keeps and of their endorsements."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.ratls.cmw import decode_extension, decode_json_wrapper
    from keep_attestation.ratls.collection import decode_collection, decode_endorsements


def target(data: bytes) -> None:
    for decode in (decode_extension, decode_collection, decode_endorsements):
        with contextlib.suppress(MalformedEvidenceError):
            decode(data)
    with contextlib.suppress(MalformedEvidenceError):
        decode_json_wrapper(data.decode("latin-1"))


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
