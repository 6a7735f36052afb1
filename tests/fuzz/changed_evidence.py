"""Fuzzes the verifiers of every kind but SNP, which has a target of its own: good evidence that was changed is either
refused or still says, in its signed part, what it said."""

from __future__ import annotations

import sys
from functools import partial

import atheris
import msgspec

with atheris.instrument_imports(include=["keep_attestation"]):
    from keep_attestation.azure.verifier import examine_azure
    from keep_attestation.errors import MalformedEvidenceError
    from keep_attestation.nitro.verifier import examine_nitro
    from keep_attestation.sgx.verifier import examine_sgx
    from keep_attestation.simulated.verifier import examine_simulated
    from keep_attestation.tdx.verifier import examine_tdx
    from keep_attestation.tpm.verifier import examine_tpm
    from keep_attestation.verdict import Examination, Outcome

from app_loader.attesters.simulated import attest
from keep_attestation.evidence import Evidence
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.azure.forge import AzureVm
from tests.unit.keep_attestation.intel import forge as intel
from tests.unit.keep_attestation.nitro.forge import MADE_AT, Module, nitro_evidence
from tests.unit.keep_attestation.snp.forge import NOW, mutated
from tests.unit.keep_attestation.tpm.forge import AT, ForgedTpm, tpm_evidence

_INTEL = intel.Forge()
_MODULE = Module()
_AZURE = AzureVm()
_SIMULATED = Evidence(kind=EvidenceKind.SIMULATED, body=attest(bytes(64), bytes(32)))
_GOOD = (
    (_INTEL.good("tdx"), partial(examine_tdx, anchors=_INTEL.anchors, at=intel.NOW)),
    (_INTEL.good("sgx"), partial(examine_sgx, anchors=_INTEL.anchors, at=intel.NOW)),
    (nitro_evidence(_MODULE.document()), partial(examine_nitro, anchors={_MODULE.root.sha256}, at=MADE_AT)),
    (tpm_evidence(ForgedTpm().bundle()), partial(examine_tpm, at=AT)),
    (_AZURE.evidence(), partial(examine_azure, snp_anchors=_AZURE.anchors, at=NOW)),
    (_SIMULATED, partial(examine_simulated, at=AT)),
)


def _accepted(examination: Examination) -> bool:
    return all(check.outcome is not Outcome.FAIL for check in examination.checks)


_IDENTITIES = []
for _evidence, _examine in _GOOD:
    _examination = _examine(_evidence, binding=None)
    assert _accepted(_examination), f"the {_evidence.kind} evidence to start from is not good"
    _IDENTITIES.append(_examination.identity)


def target(data: bytes) -> None:
    """The first byte says what kind is changed by those after it."""
    if not data:
        return
    number = data[0] % len(_GOOD)
    evidence, examine = _GOOD[number]
    changed = msgspec.structs.replace(evidence, body=mutated(evidence.body, data[1:]))
    try:
        examination = examine(changed, binding=None)
    except MalformedEvidenceError:
        return
    if _accepted(examination):
        assert examination.identity == _IDENTITIES[number]


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
