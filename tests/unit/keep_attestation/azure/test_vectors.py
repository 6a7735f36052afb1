"""Whether real evidence of Azure's VMs verifies as expected, and no changed one does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keep_attestation.azure.bundle import decode_azure_bundle
from keep_attestation.azure.hcl import parse_hcl_report
from keep_attestation.azure.policy import AzurePolicy
from keep_attestation.azure.verifier import examine_azure
from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.verdict import Check, Outcome
from keep_protocol.evidence import EvidenceKind
from keep_protocol.tpm_evidence import encode_azure_bundle

AT = datetime(2026, 11, 21, tzinfo=UTC)
_RSASSA_SHA256 = b"\x00\x14\x00\x0b"


def evidences(vectors: Path) -> list[tuple[dict[str, Any], Evidence]]:
    found = []
    for path in sorted((vectors / "azure-vtpm").glob("*/hcl_report.bin")):
        folder = path.parent
        expected = json.loads((folder / "expected.json").read_text())
        signature = (folder / "quote.sig").read_bytes()
        values = json.loads((folder / "pcrs.json").read_text())
        td_quote = folder / "td_quote.bin"
        body = encode_azure_bundle(
            quote=(folder / "quote.msg").read_bytes(),
            signature=_RSASSA_SHA256 + len(signature).to_bytes(2, "big") + signature,
            pcrs={11: {number: bytes.fromhex(value) for number, value in enumerate(values)}},
            hcl_report=path.read_bytes(),
            td_quote=td_quote.read_bytes() if td_quote.exists() else None,
        )
        kind = EvidenceKind(f"azure-{expected['facts']['tee']}")
        certificates = tuple(file.read_bytes() for file in folder.glob("vcek.der"))
        found.append((expected, Evidence(kind=kind, body=body, endorsements=Endorsements(certificates=certificates))))
    assert found, "no vectors of Azure's virtual TPM"
    return found


def failures(evidence: Evidence, binding: Binding | None = None) -> tuple[Check, ...] | None:
    """None where the evidence cannot be read."""
    try:
        checks = examine_azure(evidence, binding=binding, at=AT).checks
    except MalformedEvidenceError:
        return None
    return tuple(check for check in checks if check.outcome is Outcome.FAIL)


def snp(vectors: Path) -> list[tuple[dict[str, Any], Evidence]]:
    return [
        (expected, evidence) for expected, evidence in evidences(vectors) if evidence.kind is EvidenceKind.AZURE_SNP
    ]


def test_the_virtual_tpm_s_part_verifies_with_the_expected_facts(vectors: Path) -> None:
    for expected, evidence in evidences(vectors):
        facts = expected["facts"]
        binding = Binding(qualifying_data=bytes.fromhex(facts["nonce"]))
        examination = examine_azure(evidence, binding=binding, at=AT)
        failed = {check.name for check in examination.checks if check.outcome is Outcome.FAIL}
        assert not {name for name in failed if name.startswith("azure.")}, expected["name"]
        passed = {check.name for check in examination.checks if check.outcome is Outcome.PASS}
        assert {"azure.signature", "azure.pcrs", "azure.binding"} <= passed
        assert ("azure.tdreport" in passed) is (evidence.kind is EvidenceKind.AZURE_TDX)
        for name in ("tee", "hcl_version", "nonce", "pcr_digest", "reset_count", "restart_count", "vm_configuration"):
            assert examination.facts[name] == facts[name], f"{expected['name']}: {name}"
        assert examination.facts["firmware"] == f"{facts['firmware']:#x}"
        assert examination.facts["safe"] == facts["safe"]
        assert examination.facts["user_data"] == facts["user_data"].lower()
        assert list(examination.facts["pcrs"]["sha256"].values()) == facts["pcrs"]
        report = parse_hcl_report(decode_azure_bundle(evidence.body).hcl_report)
        assert report.report_data.hex() == facts["report_data"]
        assert failures(evidence, Binding(qualifying_data=b"other")) != ()


def test_the_hardware_s_report_of_snp_machines_verifies(vectors: Path) -> None:
    for expected, evidence in snp(vectors):
        assert failures(evidence) == (), expected["name"]
        hardware = examine_azure(evidence, binding=None, at=AT).facts["snp"]
        assert {name: hardware[name] for name in ("measurement", "chip_id", "vmpl", "guest_svn")} == {
            name: expected["facts"]["snp"][name] for name in ("measurement", "chip_id", "vmpl", "guest_svn")
        }


def test_a_td_quote_without_collateral_is_refused(vectors: Path) -> None:
    for expected, evidence in evidences(vectors):
        if evidence.kind is EvidenceKind.AZURE_TDX:
            assert failures(evidence) != (), expected["name"]


def test_a_td_quote_of_another_td_than_the_paravisor_s_is_refused(vectors: Path) -> None:
    rtmr3 = 32 + 512 + 16 + 4 * 48 + 3 * 48
    for expected, evidence in evidences(vectors):
        if evidence.kind is EvidenceKind.AZURE_TDX:
            offset = evidence.body.index(decode_azure_bundle(evidence.body).hcl_report) + rtmr3
            body = bytearray(evidence.body)
            body[offset] ^= 1
            changed = Evidence(kind=evidence.kind, body=bytes(body), endorsements=evidence.endorsements)
            assert "azure.tdreport" in {check.name for check in failures(changed) or ()}, expected["name"]
            assert "azure.tdreport" not in {check.name for check in failures(evidence) or ()}, expected["name"]


def test_a_policy_of_the_machine_s_own_values_leaves_only_what_the_hardware_s_default_refuses(vectors: Path) -> None:
    for expected, evidence in snp(vectors):
        facts = examine_azure(evidence, binding=None, at=AT).facts
        hardware = SnpPolicy(measurements=(facts["snp"]["measurement"],))
        references = {bank: {pcr: (value,) for pcr, value in values.items()} for bank, values in facts["pcrs"].items()}
        policy = AzurePolicy(snp=hardware, pcrs=references, vm_ids=(facts["vm_configuration"]["vmUniqueId"],))
        failed = {check.name for rule in policy.rules() if (check := rule.check(facts)).outcome is Outcome.FAIL}
        assert not {name for name in failed if name.startswith("azure.")}, expected["name"]


def test_a_flipped_byte_in_any_signed_part_is_refused(vectors: Path) -> None:
    for expected, evidence in snp(vectors):
        bundle = decode_azure_bundle(evidence.body)
        hcl = evidence.body.index(bundle.hcl_report)
        # The header of the HCL report before the hardware's is signed by nobody; nor is anything read from its rest.
        unsigned = range(hcl + 12, hcl + 32)
        # Of the runtime data's header, the version is of no meaning here.
        version = range(hcl + 32 + 1184 + 4, hcl + 32 + 1184 + 8)
        # HCL versions 1 and 2 have one layout.
        layout = range(hcl + 4, hcl + 8)
        for offset in range(0, len(evidence.body), 17):
            if offset in unsigned or offset in version or offset in layout:
                continue
            body = bytearray(evidence.body)
            body[offset] ^= 0x01
            flipped = Evidence(kind=evidence.kind, body=bytes(body), endorsements=evidence.endorsements)
            assert failures(flipped) != (), f"{expected['name']}: byte {offset - hcl} of the HCL report"


def test_cut_and_extended_bundles_are_refused(vectors: Path) -> None:
    for _, evidence in evidences(vectors):
        for body in (*(evidence.body[:length] for length in range(0, len(evidence.body), 97)), evidence.body + b"\x00"):
            assert failures(Evidence(kind=evidence.kind, body=body, endorsements=evidence.endorsements)) is None
