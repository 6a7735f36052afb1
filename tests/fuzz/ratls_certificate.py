"""Fuzzes the reader of certificates with evidence, by every convention that can be accepted together."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.ratls.certificate import read_ratls
    from keep_attestation.ratls.presentation import Convention

_WITHOUT_A3S = frozenset(Convention) - {Convention.A3S}
_WITHOUT_ENARX = frozenset(Convention) - {Convention.ENARX}


def target(data: bytes) -> None:
    for accept in (_WITHOUT_A3S, _WITHOUT_ENARX):
        with contextlib.suppress(MalformedEvidenceError):
            read_ratls(data, accept=accept, nonce=b"nonce")


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
