"""Fuzzes the reader of AMD's extensions in VCEK and VLEK certificates."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.certificates import read_certificate
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.snp.vek import read_vek

from tests.unit.keep_attestation.snp.forge import fake_amd, mutated

_AMD = fake_amd()
_CERTIFICATES = tuple(chip.certificate for chip in (_AMD.vcek(), _AMD.vcek(wrapped_hardware_id=True), _AMD.vlek()))


def target(data: bytes) -> None:
    for candidate in (data, *(mutated(certificate, data) for certificate in _CERTIFICATES)):
        with contextlib.suppress(MalformedEvidenceError):
            read_vek(read_certificate(candidate))


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
