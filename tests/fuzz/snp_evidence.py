"""Fuzzes the verifier of SNP evidence: no changed report passes."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.evidence import Endorsements, Evidence
    from keep_attestation.snp.report import SIGNED_SIZE
    from keep_attestation.snp.verifier import examine_snp
    from keep_attestation.verdict import Outcome

from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.snp.forge import NOW, fake_amd, mutated

_AMD = fake_amd()
_CHIP = _AMD.vcek()
_REPORT = _CHIP.report()
_CRL = _AMD.crl()


def target(data: bytes) -> None:
    """The first byte says what is changed by those after it: report, certificate, CRL, an additional certificate."""
    if not data:
        return
    what, edits = data[0], data[1:]
    certificate = mutated(_CHIP.certificate, edits) if what & 2 else _CHIP.certificate
    evidence = Evidence(
        kind=EvidenceKind.SNP,
        body=mutated(_REPORT, edits) if what & 1 else _REPORT,
        endorsements=Endorsements(
            certificates=(certificate, edits) if what & 8 else (certificate,),
            crls=(mutated(_CRL, edits) if what & 4 else _CRL,),
        ),
    )
    try:
        checks = examine_snp(evidence, binding=None, at=NOW, anchors=_AMD.anchors).checks
    except MalformedEvidenceError:
        return
    if all(check.outcome is not Outcome.FAIL for check in checks):
        assert evidence.body[:SIGNED_SIZE] == _REPORT[:SIGNED_SIZE]


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
