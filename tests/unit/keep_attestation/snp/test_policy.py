"""What SNP policies demand, by default and when asked."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import pytest

from keep_attestation.evidence import Evidence
from keep_attestation.snp.policy import RECOMMENDED_MINIMUM_TCB, RECOMMENDED_PLATFORM, SnpPolicy
from keep_attestation.snp.products import Processor, Product, TcbVersion
from keep_attestation.verdict import Outcome, Verdict
from tests.unit.keep_attestation.snp.evidence_of import verdict_of
from tests.unit.keep_attestation.snp.forge import CSP_ID, MEASUREMENT, NOW, FakeAmd, fake_amd

MILAN = fake_amd(Product.MILAN)
GENOA = fake_amd(Product.GENOA)
TURIN = fake_amd(Product.TURIN)

LISTED = f'measurements = ["{MEASUREMENT.hex()}"]\n'


def policy(text: str = "", *, listed: str = LISTED) -> SnpPolicy:
    return msgspec.convert(tomllib.loads(listed + text), SnpPolicy)


def judge(evidence: Evidence, text: str = "", amd: FakeAmd = GENOA) -> Verdict:
    return verdict_of(evidence, policy(text), NOW, anchors=amd.anchors)


def refusals(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failures}


def test_the_default_accepts_a_listed_measurement_on_a_genuine_chip() -> None:
    assert judge(GENOA.vcek().evidence()).require()
    assert judge(TURIN.vcek().evidence(), amd=TURIN).require()


def test_no_measurements_mean_refusal() -> None:
    verdict = verdict_of(GENOA.vcek().evidence(), SnpPolicy(), NOW, anchors=GENOA.anchors)
    assert refusals(verdict) == {"snp.measurement"}
    assert "names no allowed measurement" in verdict.summary


def test_another_measurement_is_refused() -> None:
    assert refusals(judge(GENOA.vcek().evidence(measurement=bytes(48)))) == {"snp.measurement"}


def test_debug_is_refused_unless_allowed_by_name() -> None:
    evidence = GENOA.vcek().evidence(policy=0xB0000)
    assert refusals(judge(evidence)) == {"snp.debug"}
    assert judge(evidence, "allow_debug = true").require()


@pytest.mark.parametrize("fields", [{"policy": 0x70000}, {"report_id_ma": b"\xff" * 31 + b"\xfe"}])
def test_a_migration_agent_is_refused(fields: dict[str, Any]) -> None:
    assert refusals(judge(GENOA.vcek().evidence(**fields))) == {"snp.migration_agent"}


def test_less_privileged_levels_are_refused_unless_allowed() -> None:
    evidence = GENOA.vcek().evidence(vmpl=2)
    assert refusals(judge(evidence)) == {"snp.vmpl"}
    assert refusals(judge(evidence, "max_vmpl = 1")) == {"snp.vmpl"}
    assert judge(evidence, "max_vmpl = 2").require()


def test_no_policy_accepts_a_report_that_the_host_asked_for() -> None:
    assert "snp.guest_requested" in refusals(judge(GENOA.vcek().evidence(vmpl=0xFFFFFFFF), "max_vmpl = 3"))


def test_a_vlek_is_refused_unless_its_provider_is_named() -> None:
    evidence = GENOA.vlek().evidence()
    assert refusals(judge(evidence)) == {"snp.endorsement_key_allowed"}
    assert refusals(judge(evidence, 'vlek_csp_ids = ["CN=another"]')) == {"snp.endorsement_key_allowed"}
    assert judge(evidence, f'vlek_csp_ids = ["{CSP_ID}"]').require()


def test_milan_is_refused_without_a_list_of_chips() -> None:
    chip = MILAN.vcek()
    verdict = judge(chip.evidence(), amd=MILAN)
    assert refusals(verdict) == {"snp.chip_allowed"}
    assert "allow_any_milan" in verdict.summary
    assert judge(chip.evidence(), "allow_any_milan = true", MILAN).require()
    assert judge(chip.evidence(), f'chip_ids = ["{chip.chip_id.hex()}"]', MILAN).require()


def test_a_list_of_chips_refuses_others_of_every_product() -> None:
    for amd in (MILAN, GENOA, TURIN):
        listed = f'chip_ids = ["{"ab" * 64}"]\nallow_any_milan = true'
        assert refusals(judge(amd.vcek().evidence(), listed, amd)) == {"snp.chip_allowed"}


def test_a_turin_may_be_listed_by_its_8_bytes() -> None:
    chip = TURIN.vcek()
    for digits in (chip.chip_id.hex(), chip.chip_id[:8].hex()):
        assert judge(chip.evidence(), f'chip_ids = ["{digits}"]', TURIN).require()


def test_a_vlek_proves_no_chip_even_if_it_names_a_listed_one() -> None:
    chip = GENOA.vlek()
    text = f'chip_ids = ["{"ab" * 64}"]\nvlek_csp_ids = ["{CSP_ID}"]'
    assert refusals(judge(chip.evidence(chip_id=b"\xab" * 64), text)) == {"snp.chip_allowed"}


def test_the_minimum_tcb_is_of_the_certificate_and_by_part() -> None:
    evidence = MILAN.vcek(tcb=TcbVersion(bl=4, tee=0, snp=0x17, ucode=0xDB)).evidence()
    base = "allow_any_milan = true\n"
    assert judge(evidence, base + "[minimum_tcb.Milan]\nsnp = 0x17\nbl = 4\nucode = 0xdb", MILAN).require()
    for raised in ("snp = 0x18", "bl = 5", "tee = 1", "ucode = 0xdc"):
        verdict = judge(evidence, f"{base}[minimum_tcb.Milan]\n{raised}", MILAN)
        assert refusals(verdict) == {"snp.minimum_tcb"}


def test_firmware_below_the_recommended_levels_is_refused_by_them() -> None:
    recommended = SnpPolicy(
        measurements=(MEASUREMENT.hex(),), allow_any_milan=True, minimum_tcb=dict(RECOMMENDED_MINIMUM_TCB)
    )
    for amd, snp, accepted in ((MILAN, 0x18, True), (MILAN, 0x17, False), (GENOA, 0x17, True), (GENOA, 0x16, False)):
        evidence = amd.vcek(tcb=TcbVersion(bl=4, tee=0, snp=snp, ucode=0x54)).evidence()
        assert verdict_of(evidence, recommended, NOW, anchors=amd.anchors).accepted is accepted
    assert verdict_of(TURIN.vcek().evidence(), recommended, NOW, anchors=TURIN.anchors).require()
    assert set(RECOMMENDED_MINIMUM_TCB) == set(Processor)


def test_a_table_of_minima_refuses_processors_that_are_not_in_it() -> None:
    verdict = judge(TURIN.vcek().evidence(), "[minimum_tcb.Genoa]\nsnp = 1", TURIN)
    assert refusals(verdict) == {"snp.minimum_tcb"}


def test_bergamo_falls_back_on_genoas_minimum_and_may_have_its_own() -> None:
    evidence = GENOA.vcek().evidence(cpuid=b"\x19\xa0\x02")
    assert refusals(judge(evidence, "[minimum_tcb.Genoa]\nsnp = 0x20")) == {"snp.minimum_tcb"}
    assert judge(evidence, "[minimum_tcb.Genoa]\nsnp = 0x20\n[minimum_tcb.Bergamo-Siena]\nsnp = 0x19").require()


def test_without_minima_the_verdict_notes_that_the_tcb_was_not_judged() -> None:
    outcomes = {check.name: check.outcome for check in judge(GENOA.vcek().evidence()).checks}
    assert outcomes["snp.minimum_tcb"] is Outcome.NOTE


def test_the_tcb_at_launch_has_a_minimum_of_its_own() -> None:
    evidence = GENOA.vcek().evidence(launch_tcb=bytes([10, 0, 0, 0, 0, 0, 0x16, 0x54]))
    assert judge(evidence, "[minimum_tcb.Genoa]\nsnp = 0x19").require()
    assert refusals(judge(evidence, "[minimum_launch_tcb.Genoa]\nsnp = 0x17")) == {"snp.minimum_launch_tcb"}


@pytest.mark.parametrize(
    ("text", "good", "bad", "check"),
    [
        ("allow_smt = false", {"policy": 0x20000}, {"policy": 0x30000}, "snp.smt"),
        ('required_guest_policy = ["single_socket"]', {"policy": 0x130000}, {}, "snp.guest_policy"),
        ('required_guest_policy = ["page_swap_dis"]', {"policy": 0x2030000}, {}, "snp.guest_policy"),
        ('required_platform = ["alias_check_complete"]', {}, {"platform_info": 0x05}, "snp.platform"),
        ('required_platform = ["tsme", "ecc"]', {"platform_info": 0x27}, {"platform_info": 0x25}, "snp.platform"),
        ("minimum_guest_svn = 4", {"guest_svn": 4}, {"guest_svn": 3}, "snp.guest_svn"),
        (f'host_data = ["{"ab" * 32}"]', {"host_data": b"\xab" * 32}, {}, "snp.host_data"),
        (f'id_key_digests = ["{"ab" * 48}"]', {"id_key_digest": b"\xab" * 48}, {}, "snp.id_key_digest"),
        (f'family_ids = ["{"ab" * 16}"]', {"family_id": b"\xab" * 16}, {}, "snp.family_id"),
        (f'image_ids = ["{"ab" * 16}"]', {"image_id": b"\xab" * 16}, {}, "snp.image_id"),
        (
            f'author_key_digests = ["{"ab" * 48}"]',
            {"author_key_digest": b"\xab" * 48, "key_info": 1},
            {"author_key_digest": b"\xab" * 48},
            "snp.author_key",
        ),
        ('minimum_firmware = "1.55.29"', {}, {"committed_version": bytes([28, 55, 1])}, "snp.firmware"),
        ('minimum_firmware = "1.55"', {}, {"committed_version": bytes([99, 54, 1])}, "snp.firmware"),
        ('minimum_abi = "1.51"', {"policy": 0x30133}, {"policy": 0x30132}, "snp.abi"),
        (
            "allow_provisional_firmware = false",
            {},
            {"current_version": bytes([30, 55, 1])},
            "snp.provisional_firmware",
        ),
        (
            "allow_provisional_firmware = false",
            {},
            {"current_tcb": bytes([10, 0, 0, 0, 0, 0, 0x19, 0x55])},
            "snp.provisional_firmware",
        ),
        (
            "required_launch_mitigations = 3",
            {"version": 5, "launch_mit": 7},
            {"version": 5, "launch_mit": 5, "cur_mit": 7},
            "snp.mitigations",
        ),
        ("required_current_mitigations = 1", {"version": 5, "cur_mit": 1}, {}, "snp.mitigations"),
    ],
)
def test_what_an_owner_may_demand_besides(text: str, good: dict[str, Any], bad: dict[str, Any], check: str) -> None:
    chip = GENOA.vcek()
    assert judge(chip.evidence(**good), text).require()
    assert refusals(judge(chip.evidence(**bad), text)) == {check}
    assert judge(chip.evidence(**bad)).require()


def test_the_recommended_platform_flags_can_be_demanded() -> None:
    demanding = SnpPolicy(measurements=(MEASUREMENT.hex(),), required_platform=RECOMMENDED_PLATFORM)
    assert verdict_of(GENOA.vcek().evidence(), demanding, NOW, anchors=GENOA.anchors).require()
    aliased = GENOA.vcek().evidence(platform_info=0x05)
    assert refusals(verdict_of(aliased, demanding, NOW, anchors=GENOA.anchors)) == {"snp.platform"}


def test_every_rule_refuses_when_there_are_no_facts() -> None:
    demanding = policy(
        f"""
        allow_smt = false
        required_guest_policy = ["single_socket"]
        required_platform = ["ecc"]
        minimum_guest_svn = 1
        host_data = ["{"ab" * 32}"]
        id_key_digests = ["{"ab" * 48}"]
        author_key_digests = ["{"ab" * 48}"]
        family_ids = ["{"ab" * 16}"]
        image_ids = ["{"ab" * 16}"]
        minimum_firmware = "0.0"
        minimum_abi = "0.0"
        allow_provisional_firmware = false
        required_launch_mitigations = 1
        required_current_mitigations = 1
        chip_ids = ["{"ab" * 64}"]
        [minimum_tcb.Genoa]
        snp = 1
        [minimum_launch_tcb.Genoa]
        snp = 1
        """
    )
    for rule in (*demanding.rules(), *policy("allow_any_milan = true").rules()):
        check = rule.check({})
        assert check.outcome is Outcome.FAIL or (check.name == "snp.minimum_tcb" and check.outcome is Outcome.NOTE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('measurements = ["abc"]', "snp.measurements: 'abc' is not 96 hex digits in lower case"),
        (f'measurements = ["{"AB" * 48}"]', "in lower case"),
        (f'chip_ids = ["{"0" * 128}"]', "an id of zeros is no chip"),
        (f'chip_ids = ["{"0" * 16}"]', "an id of zeros is no chip"),
        (f'host_data = ["{"ab" * 48}"]', "64 hex digits"),
        ('vlek_csp_ids = [""]', "no provider"),
        ('minimum_firmware = "1"', "write it as '1.55.29'"),
        ('minimum_abi = "1.55.1"', "write it as '1.55'"),
        ("max_vmpl = 4", "max_vmpl"),
        ("max_vmpl = true", "max_vmpl"),
        ("allow_debug = 1", "allow_debug"),
        ("[minimum_tcb.Rome]\nsnp = 1", "minimum_tcb"),
        ("[minimum_tcb.Milan]\nspl = 1", "spl"),
        ("[minimum_tcb.Milan]\nsnp = 256", "snp"),
        ('required_platform = ["bit 6"]', "required_platform"),
        ("debug = false", "debug"),
    ],
)
def test_wrong_policies_are_refused_with_the_field(text: str, reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        policy(text, listed="")
