"""Whether a virtual TPM is believed only through the hardware's report, and its quote only by the key named there."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.azure.verifier import examine_azure
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.tdx.policy import TdxPolicy
from keep_attestation.tpm.structures import SigningScheme
from keep_attestation.verdict import Examination, Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.azure.forge import AzureVm, hcl_report, jwk, runtime_data
from tests.unit.keep_attestation.snp.forge import NOW
from tests.unit.keep_attestation.tpm.forge import BINDING, PCRS, SHA256, ForgedTpm

VM = AzureVm()
STRANGER = ForgedTpm(rsa.generate_private_key(65537, 2048), SigningScheme.RSASSA)
REFERENCES = {"sha256": {str(pcr): (value.hex(),) for pcr, value in PCRS.items()}}


def examined(evidence: Evidence, **arguments: Any) -> Examination:
    defaults: dict[str, Any] = {"binding": BINDING, "at": NOW, "snp_anchors": VM.anchors}
    return examine_azure(evidence, **(defaults | arguments))


def refusals(examination: Examination, policy: AzurePolicy | None = None) -> set[str]:
    appraised = (rule.check(examination.facts) for rule in policy.rules()) if policy else ()
    return {check.name for check in (*examination.checks, *appraised) if check.outcome is Outcome.FAIL}


def test_a_genuine_vm_passes_every_check_and_shows_both_parts() -> None:
    examination = examined(VM.evidence())
    assert not refusals(examination)
    assert {check.name for check in examination.checks} >= {"snp.signature", "azure.signature", "azure.pcrs"}
    assert examination.facts["tee"] == "snp"
    assert examination.facts["snp"]["vmpl"] == 0
    assert examination.facts["vm_configuration"]["secure-boot"] is True


def test_hardware_that_is_not_amd_s_is_refused() -> None:
    assert any(name.startswith("snp.") for name in refusals(examine_azure(VM.evidence(), binding=BINDING, at=NOW)))


def test_a_quote_by_a_key_that_the_hardware_does_not_vouch_for_is_refused() -> None:
    message = STRANGER.attest({SHA256: PCRS})
    forged = VM.evidence(quote=message, signature=STRANGER.sign(message))
    assert refusals(examined(forged)) == {"azure.signature"}


def test_runtime_data_that_the_hardware_did_not_sign_are_refused() -> None:
    assert isinstance(STRANGER.key, rsa.RSAPrivateKey)
    genuine = VM.report()
    swapped = hcl_report(genuine[32 : 32 + 1184], runtime_data(VM.key, keys=[jwk(STRANGER.key)]))
    message = STRANGER.attest({SHA256: PCRS})
    forged = VM.evidence(report=swapped, quote=message, signature=STRANGER.sign(message))
    assert refusals(examined(forged)) == {"snp.binding"}


def test_report_data_whose_padding_is_not_zero_are_refused() -> None:
    data = SHA256.digest(runtime_data(VM.key)) + b"\x01" * 32
    assert refusals(examined(VM.evidence(report=VM.report(report_data=data)))) == {"snp.binding"}


def test_another_nonce_and_values_beside_the_quote_are_refused() -> None:
    other = Binding(qualifying_data=b"other")
    assert refusals(examined(VM.evidence(), binding=other)) == {"azure.binding"}
    more = VM.evidence(pcrs={SHA256: PCRS | {8: bytes(32)}})
    assert refusals(examined(more)) == {"azure.pcrs"}


def test_a_kind_that_the_report_is_not_of_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="azure-tdx"):
        examined(VM.evidence(kind=EvidenceKind.AZURE_TDX))
    with pytest.raises(MalformedEvidenceError, match="beside"):
        examined(VM.evidence(td_quote=b"quote"))
    tdx = hcl_report(b"\x81", runtime_data(VM.key), report_type=4)
    with pytest.raises(MalformedEvidenceError, match="TD quote is missing"):
        examined(VM.evidence(report=tdx, kind=EvidenceKind.AZURE_TDX))


def snp_policy(examination: Examination) -> SnpPolicy:
    return SnpPolicy(measurements=(examination.facts["snp"]["measurement"],))


def test_a_policy_judges_hardware_registers_and_settings() -> None:
    examination = examined(VM.evidence())
    hardware = snp_policy(examination)
    by_hardware = {
        check.name
        for rule in hardware.rules()
        if (check := rule.check(examination.facts["snp"])).outcome is Outcome.FAIL
    }
    good = AzurePolicy(snp=hardware, pcrs=REFERENCES, vm_ids=("26F8BC30",), vm_configuration={"tpm-enabled": True})
    assert refusals(examination, good) == by_hardware
    assert "snp.measurement" not in by_hardware
    other = AzurePolicy(
        snp=SnpPolicy(measurements=("ab" * 48,)),
        pcrs={"sha256": {"7": ("ab" * 32,)}},
        vm_ids=("another",),
        vm_configuration={"console-enabled": False, "absent": 1},
        require_event_log=True,
    )
    assert refusals(examination, other) >= {
        "azure.pcr7",
        "azure.vm",
        "azure.console-enabled",
        "azure.absent",
        "azure.log-demanded",
    }
    assert len(refusals(examination, other)) > 5 + len(by_hardware)


def test_without_reference_values_for_hardware_and_registers_everything_is_refused() -> None:
    assert refusals(examined(VM.evidence()), AzurePolicy()) == {"azure.hardware", "azure.pcrs"}


def test_a_vm_without_secure_boot_is_refused_unless_the_policy_says_otherwise() -> None:
    for settings in ({"secure-boot": False}, {}, {"secure-boot": 1}):
        report = VM.report(runtime_data(VM.key, **{"vm-configuration": settings}))
        examination = examined(VM.evidence(report=report))
        assert "azure.secure-boot" in refusals(examination, AzurePolicy())
        assert "azure.secure-boot" not in refusals(examination, AzurePolicy(allow_no_secure_boot=True))


def test_a_policy_for_other_hardware_refuses() -> None:
    assert "azure.tdx" in refusals(examined(VM.evidence()), AzurePolicy(tdx=TdxPolicy(), pcrs=REFERENCES))
    with pytest.raises(ValueError, match="two alternatives"):
        AzurePolicy(tdx=TdxPolicy(), snp=SnpPolicy())
