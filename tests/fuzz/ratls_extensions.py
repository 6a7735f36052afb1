"""Fuzzes what stands in the extensions of certificates; random bytes seldom make a certificate around it."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.ratls.conventions import a3s, cocos_legacy, dstack, enarx, gramine, intel_sdk, tcg_dice
    from keep_attestation.ratls.presentation import Bearer

_CONVENTIONS = (a3s, cocos_legacy, dstack, enarx, gramine, intel_sdk, tcg_dice)
_P256_SPKI = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
    "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""The key whose private half is 1."""


def target(data: bytes) -> None:
    for convention in _CONVENTIONS:
        for oid in convention.EVIDENCE_OIDS:
            with contextlib.suppress(MalformedEvidenceError):
                convention.read(Bearer(_P256_SPKI, {oid: data}, b"nonce"))


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
