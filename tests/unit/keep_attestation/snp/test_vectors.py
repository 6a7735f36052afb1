"""Reports of real machines give what is expected of each."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.snp.certificate_table import endorsements_of_table, endorsements_of_thim
from keep_attestation.snp.policy import SnpPolicy
from keep_attestation.snp.report import REPORT_SIZE, SIGNED_SIZE, parse_report
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verdict import Outcome
from tests.unit.keep_attestation.snp.evidence_of import evidence_of, expected_of, time_of, vector_folders, verdict_of

each_vector = pytest.mark.parametrize("folder", vector_folders())

_CHECK_OF = {
    "signature": "snp.signature",
    "chain": "snp.chain",
    "tcb_matches_vek": "snp.tcb",
    "chip_id_matches_vek": "snp.chip_id",
}


def policy_for(expected: dict[str, Any], **fields: Any) -> SnpPolicy:
    return SnpPolicy(measurements=(expected["facts"]["measurement"],), allow_any_milan=True, **fields)


@each_vector
def test_a_real_report_says_what_is_expected_of_it(folder: Path) -> None:
    expected = expected_of(folder)
    facts = examine_snp(evidence_of(folder), binding=None, at=time_of(expected)).facts
    wanted = {name: value for name, value in expected["facts"].items() if name != "pol"}
    wanted |= {name: value for name, value in expected["facts"]["pol"].items() if name not in ("rsv1", "rest")}
    assert {name: facts[name] for name in wanted} == wanted
    for name in ("product", "endorsement_key", "csp_id", "vek_product_name"):
        if name in expected:
            assert facts.get(name) == expected[name]
    parts = {name: level for name, level in expected.get("reported_tcb", {}).items() if name != "rsv"}
    assert {name: facts[f"reported_tcb_{name}"] for name in parts} == parts


@each_vector
def test_a_real_report_is_as_genuine_as_expected(folder: Path) -> None:
    expected = expected_of(folder)
    examination = examine_snp(evidence_of(folder), binding=None, at=time_of(expected))
    outcomes = {check.name: check.outcome for check in examination.checks}
    for name, check in _CHECK_OF.items():
        match expected["verify"].get(name):
            case True:
                assert outcomes[check] is Outcome.PASS
            case False:
                assert outcomes[check] is Outcome.FAIL
            case None:
                assert outcomes.get(check, Outcome.NOTE) is Outcome.NOTE
    if (window := expected.get("vek_valid")) is not None:
        assert examination.collateral.not_before == datetime.fromisoformat(window[0])
        assert examination.collateral.not_after == datetime.fromisoformat(window[1])


@each_vector
def test_a_policy_that_lists_the_measurement_decides_as_expected(folder: Path) -> None:
    expected = expected_of(folder)
    evidence, at, decision = evidence_of(folder), time_of(expected), expected["verify"]["default_policy"]
    verdict = verdict_of(evidence, policy_for(expected), at)
    assert verdict.accepted is (decision == "accept"), verdict.summary
    if decision.startswith("accept only if policy allows VLEK"):
        allowing = policy_for(expected, vlek_csp_ids=(expected["csp_id"],), max_vmpl=1)
        assert verdict_of(evidence, allowing, at).require()
        assert not verdict_of(evidence, allowing, at + timedelta(days=366)).accepted


@each_vector
def test_a_policy_without_measurements_refuses_every_real_report(folder: Path) -> None:
    expected = expected_of(folder)
    verdict = verdict_of(evidence_of(folder), SnpPolicy(allow_any_milan=True), time_of(expected))
    assert "snp.measurement" in {check.name for check in verdict.failures}


@each_vector
def test_the_endorsement_key_alone_is_enough(folder: Path) -> None:
    expected = expected_of(folder)
    evidence = evidence_of(folder)
    alone = msgspec.structs.replace(
        evidence, endorsements=Endorsements(certificates=evidence.endorsements.certificates[:1])
    )
    whole = examine_snp(evidence, binding=None, at=time_of(expected))
    assert examine_snp(alone, binding=None, at=time_of(expected)) == whole


@each_vector
def test_a_real_report_is_refused_before_and_after_its_keys_validity(folder: Path) -> None:
    expected = expected_of(folder)
    if "vek_valid" not in expected:
        pytest.skip("no endorsement key came with it")
    start, end = map(datetime.fromisoformat, expected["vek_valid"])
    for at in (start - timedelta(seconds=1), end + timedelta(seconds=1)):
        failures = verdict_of(evidence_of(folder), policy_for(expected), at).failures
        assert "snp.chain" in {check.name for check in failures}
        assert any(f"{end:%Y-%m-%dT%H:%M:%SZ}" in check.reason for check in failures)


@each_vector
def test_every_changed_byte_of_a_real_report_is_refused(folder: Path) -> None:
    expected = expected_of(folder)
    evidence = evidence_of(folder)
    policy = policy_for(expected, vlek_csp_ids=(expected.get("csp_id") or "CN=nobody",), max_vmpl=3, allow_debug=True)
    for offset in range(0, REPORT_SIZE, 2):
        changed = bytearray(evidence.body)
        changed[offset] ^= 1 << offset // 2 % 8
        mutated = msgspec.structs.replace(evidence, body=bytes(changed))
        try:
            verdict = verdict_of(mutated, policy, time_of(expected))
        except MalformedEvidenceError:
            continue
        assert offset < 0x330
        assert not verdict.accepted, f"{offset:#x}"
        wanted = {"snp.signature", "snp.endorsement_key"}
        assert wanted & {check.name for check in verdict.failures}, f"{offset:#x}"


@each_vector
def test_a_real_report_cut_or_prolonged_is_malformed(folder: Path) -> None:
    body = evidence_of(folder).body
    for wrong in (*(body[:length] for length in range(0, len(body), 3)), body[:-1], body + b"\0", body + bytes(56)):
        with pytest.raises(MalformedEvidenceError, match="1184"):
            parse_report(wrong)


@each_vector
def test_certificates_of_other_keys_do_not_vouch_for_a_real_report(folder: Path) -> None:
    expected = expected_of(folder)
    foreign = [path for path in folder.parent.glob("*/*.der") if path.name in ("vcek.der", "vlek.der")]
    foreign = [path for path in foreign if path.parent != folder] + sorted(folder.glob("negative-*.der"))
    for path in foreign:
        evidence = msgspec.structs.replace(
            evidence_of(folder), endorsements=Endorsements(certificates=(path.read_bytes(),))
        )
        verdict = verdict_of(evidence, policy_for(expected), time_of(expected))
        assert {"snp.signature", "snp.endorsement_key"} & {check.name for check in verdict.failures}, path


def test_certificate_tables_of_real_hosts_hold_what_the_report_needs(vectors: Path) -> None:
    tables = sorted((vectors / "snp").glob("*/auxblob_cert_table.bin"))
    assert tables
    for table in tables:
        expected = expected_of(table.parent)
        found = endorsements_of_table(table.read_bytes())
        assert set(found.certificates) == set(evidence_of(table.parent).endorsements.certificates)
        evidence = msgspec.structs.replace(evidence_of(table.parent), endorsements=found)
        assert verdict_of(
            evidence,
            policy_for(expected, vlek_csp_ids=(expected["csp_id"] or "CN=nobody",), max_vmpl=1),
            time_of(expected),
        ).require()


def test_a_reply_of_azures_certificate_service_holds_what_the_report_needs(vectors: Path) -> None:
    folder = vectors / "snp" / "milan-v2-aci-hostdata"
    if not folder.exists():
        pytest.skip("these vectors have no THIM reply")
    found = endorsements_of_thim((folder / "thim-certs.json").read_bytes())
    assert set(found.certificates) == set(evidence_of(folder).endorsements.certificates)


def test_host_data_ties_a_real_report_to_the_security_policy_beside_it(vectors: Path) -> None:
    folder = vectors / "snp" / "milan-v2-aci-hostdata"
    if not folder.exists():
        pytest.skip("these vectors have no security policy")
    expected = expected_of(folder)
    digest = hashlib.sha256((folder / "security_policy.bin").read_bytes()).hexdigest()
    at = time_of(expected)
    assert verdict_of(evidence_of(folder), policy_for(expected, host_data=(digest,)), at).require()
    assert not verdict_of(evidence_of(folder), policy_for(expected, host_data=("00" * 32,)), at).accepted


def test_real_crls_are_honoured(vectors: Path) -> None:
    folder = vectors / "snp" / "milan-v2-enarx-idblock"
    if not folder.exists():
        pytest.skip("these vectors have no CRLs")
    milan, genoa = ((folder / f"amd-crl-{product}.der").read_bytes() for product in ("Milan", "Genoa"))
    at = time_of(expected_of(folder))
    current = examine_snp(evidence_of(folder, crls=(milan,)), binding=None, at=at)
    assert current.facts["revocation_checked"] is True
    assert current.collateral.not_after == datetime.fromisoformat("2023-05-09T23:00:00+00:00")
    stale = examine_snp(evidence_of(folder, crls=(milan,)), binding=None, at=at + timedelta(days=300))
    foreign = examine_snp(evidence_of(folder, crls=(milan, genoa)), binding=None, at=at)
    for examination in (stale, foreign):
        assert examination.facts["revocation_checked"] is False
        assert [check.name for check in examination.checks if check.outcome is Outcome.FAIL] == ["snp.revocation"]


@each_vector
def test_a_real_report_is_bound_to_its_own_64_bytes_only(folder: Path) -> None:
    expected = expected_of(folder)
    own = bytes.fromhex(expected["facts"]["report_data"])
    for demanded, bound in ((own, True), (bytes([own[0] ^ 1]) + own[1:], False), (own[:-1] + b"\x01", False)):
        examination = examine_snp(evidence_of(folder), binding=Binding(report_data=demanded), at=time_of(expected))
        outcomes = {check.name: check.outcome for check in examination.checks}
        assert outcomes["snp.binding"] is (Outcome.PASS if bound else Outcome.FAIL)


@each_vector
def test_identity_is_of_the_signed_bytes_so_that_a_mirrored_signature_has_the_same(folder: Path) -> None:
    expected = expected_of(folder)
    evidence = evidence_of(folder)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    s = int.from_bytes(evidence.body[0x2E8:0x330], "little")
    mirrored = evidence.body[:0x2E8] + (order - s).to_bytes(72, "little") + evidence.body[0x330:]
    original = examine_snp(evidence, binding=None, at=time_of(expected))
    other = examine_snp(msgspec.structs.replace(evidence, body=mirrored), binding=None, at=time_of(expected))
    assert original.identity == other.identity == hashlib.sha256(evidence.body[:SIGNED_SIZE]).hexdigest()
    assert mirrored != evidence.body
    assert original.checks == other.checks


def test_a_report_of_another_kind_of_evidence_is_malformed(vectors: Path) -> None:
    quote = next((vectors / "tdx").glob("*/quote.bin"))
    with pytest.raises(MalformedEvidenceError):
        examine_snp(
            Evidence(kind=evidence_of(next((vectors / "snp").iterdir())).kind, body=quote.read_bytes()),
            binding=None,
            at=datetime.fromisoformat("2026-01-01T00:00:00+00:00"),
        )
