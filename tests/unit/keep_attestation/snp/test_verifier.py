"""Forged, mutated and mismatched SNP evidence is refused."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Endorsements, Evidence
from keep_attestation.snp.products import Product, TcbVersion
from keep_attestation.snp.report import SIGNED_SIZE
from keep_attestation.snp.verifier import MAX_CERTIFICATES, examine_snp
from keep_attestation.verdict import Check, Examination, Outcome
from tests.unit.keep_attestation.snp.forge import NOT_AFTER, NOW, FakeAmd, FakeChip, fake_amd

MILAN = fake_amd(Product.MILAN)
GENOA = fake_amd(Product.GENOA)
TURIN = fake_amd(Product.TURIN)


def examine(evidence: Evidence, amd: FakeAmd = MILAN, binding: Binding | None = None) -> Examination:
    return examine_snp(evidence, binding=binding, at=NOW, anchors=amd.anchors)


def failures(examination: Examination) -> dict[str, str]:
    return {check.name: check.reason for check in examination.checks if check.outcome is Outcome.FAIL}


def with_certificates(evidence: Evidence, *certificates: bytes) -> Evidence:
    return msgspec.structs.replace(evidence, endorsements=Endorsements(certificates=certificates))


@pytest.mark.parametrize("product", Product)
def test_a_chip_under_injected_anchors_is_genuine(product: Product) -> None:
    amd = fake_amd(product)
    for chip in (amd.vcek(), amd.vcek(wrapped_hardware_id=True), amd.vlek()):
        examination = examine(chip.evidence(crls=(amd.crl(),)), amd)
        assert failures(examination) == {}
        assert examination.facts["product"] == product
        assert examination.facts["revocation_checked"] is True


@pytest.mark.parametrize("product", Product)
def test_a_self_made_root_of_the_same_name_is_refused_by_default(product: Product) -> None:
    amd = fake_amd(product)
    own = tuple(certificate.der for certificate in amd.hierarchy.certificates)
    for beside in ((), own):
        examination = examine_snp(amd.vcek().evidence(beside=beside), binding=None, at=NOW)
        assert set(failures(examination)) == {"snp.chain"}


def test_another_generation_of_keys_of_the_same_names_is_refused() -> None:
    stranger = fake_amd(Product.MILAN, generation=1)
    assert "signature is not by" in failures(examine(stranger.vcek().evidence()))["snp.chain"]


def test_a_root_of_the_right_name_beside_a_genuine_key_is_refused() -> None:
    stranger = fake_amd(Product.MILAN, generation=1)
    examination = examine(MILAN.vcek().evidence(beside=(stranger.hierarchy.ark.der,)))
    assert "not pinned" in failures(examination)["snp.chain"]


def test_the_root_of_another_product_beside_a_genuine_key_is_refused() -> None:
    both = (*MILAN.anchors, *GENOA.anchors)
    evidence = MILAN.vcek().evidence(beside=(GENOA.hierarchy.ark.der,))
    examination = examine_snp(evidence, binding=None, at=NOW, anchors=both)
    assert "ARK-Genoa" in failures(examination)["snp.chain"]


def test_an_intermediate_cannot_stand_for_the_root() -> None:
    hierarchy = MILAN.hierarchy
    promoted = type(hierarchy)(product=hierarchy.product, ark=hierarchy.ask, ask=hierarchy.ask, asvk=hierarchy.asvk)
    examination = examine_snp(MILAN.vcek().evidence(), binding=None, at=NOW, anchors=(promoted,))
    assert "snp.chain" in failures(examination)


def test_a_root_that_no_anchor_knows_is_named() -> None:
    examination = examine_snp(GENOA.vcek().evidence(), binding=None, at=NOW, anchors=MILAN.anchors)
    assert failures(examination)["snp.chain"] == (
        "the VCEK is issued by 'SEV-Genoa'; trusted to issue a VCEK are SEV-Milan"
    )
    assert "snp.signature" not in {check.name for check in examination.checks}


def test_evidence_without_an_endorsement_key_is_refused_with_the_remedy() -> None:
    evidence = with_certificates(MILAN.vcek().evidence())
    assert "certificate table" in failures(examine(evidence))["snp.endorsement_key"]
    own = tuple(certificate.der for certificate in MILAN.hierarchy.certificates)
    assert "none did" in failures(examine(with_certificates(evidence, *own)))["snp.endorsement_key"]


def test_of_two_endorsement_keys_the_one_that_signed_is_taken() -> None:
    chip = MILAN.vcek()
    older = MILAN.vcek(tcb=TcbVersion(bl=3, tee=0, snp=8, ucode=0x73))
    for order in ((chip, older), (older, chip)):
        evidence = with_certificates(chip.evidence(), *(each.certificate for each in order))
        assert failures(examine(evidence)) == {}


def test_a_report_that_names_a_vlek_is_not_taken_with_a_vcek() -> None:
    chip = MILAN.vcek()
    examination = examine(chip.evidence(key_info=4))
    assert "a VCEK did" in failures(examination)["snp.endorsement_key"]


def test_a_report_that_names_a_vcek_is_not_taken_with_a_vlek() -> None:
    examination = examine(MILAN.vlek().evidence(key_info=0, chip_id=bytes(range(1, 65))))
    assert "a VLEK did" in failures(examination)["snp.endorsement_key"]


def test_a_vcek_from_the_issuer_of_vleks_is_refused() -> None:
    hierarchy = MILAN.hierarchy
    swapped = FakeAmd(
        hierarchy=type(hierarchy)(product=hierarchy.product, ark=hierarchy.ark, ask=hierarchy.asvk, asvk=hierarchy.ask),
        ark_key=MILAN.ark_key,
        ask_key=MILAN.asvk_key,
        asvk_key=MILAN.ask_key,
    )
    for chip in (swapped.vcek(), swapped.vlek()):
        assert "trusted to issue" in failures(examine(chip.evidence()))["snp.chain"]


@pytest.mark.parametrize("key_info", [7 << 2, 1 << 1])
def test_a_report_that_the_host_left_unsigned_is_refused(key_info: int) -> None:
    examination = examine(MILAN.vcek().evidence(key_info=key_info))
    assert "switched signing off" in failures(examination)["snp.endorsement_key"]


def test_a_report_of_another_chip_is_refused() -> None:
    chip, other = MILAN.vcek(), MILAN.vcek(hardware_id=b"\xaa" * 64)
    assert set(failures(examine(with_certificates(chip.evidence(), other.certificate)))) == {
        "snp.signature",
        "snp.chip_id",
    }
    # Signed by the right key, so that only the comparison of ids is left to refuse.
    assert set(failures(examine(chip.evidence(chip_id=other.chip_id)))) == {"snp.chip_id"}


def test_a_masked_chip_id_is_no_chip() -> None:
    masked = MILAN.vcek(hardware_id=bytes(64))
    assert "masks" in failures(examine(masked.evidence()))["snp.chip_id"]


def test_a_turins_id_has_8_bytes_and_nothing_behind_them() -> None:
    chip = TURIN.vcek()
    assert failures(examine(chip.evidence(), TURIN)) == {}
    longer = chip.chip_id[:8] + b"\x01" + chip.chip_id[9:]
    assert set(failures(examine(chip.evidence(chip_id=longer), TURIN))) == {"snp.chip_id"}


@pytest.mark.parametrize("part", ["bl", "tee", "snp", "ucode"])
def test_a_report_that_claims_another_tcb_than_its_keys_is_refused(part: str) -> None:
    chip = MILAN.vcek()
    position = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}[part]
    claimed = bytearray(chip.unsigned_report()[0x180:0x188])
    claimed[position] += 1
    assert set(failures(examine(chip.evidence(reported_tcb=bytes(claimed))))) == {"snp.tcb"}


def test_a_turins_fmc_counts() -> None:
    chip = TURIN.vcek()
    claimed = bytes([1]) + chip.unsigned_report()[0x181:0x188]
    assert set(failures(examine(chip.evidence(reported_tcb=claimed), TURIN))) == {"snp.tcb"}


def test_the_processor_in_the_report_must_be_of_the_roots_product() -> None:
    chip = MILAN.vcek()
    assert set(failures(examine(chip.evidence(cpuid=b"\x19\x11\x01")))) == {"snp.product"}
    with pytest.raises(UnsupportedEvidenceError, match="family 0x17"):
        examine(chip.evidence(cpuid=b"\x17\x01\x01"))


def test_the_product_in_the_certificate_must_be_the_roots() -> None:
    chip = MILAN.vcek(product_name="Genoa")
    assert "Genoa" in failures(examine(chip.evidence()))["snp.product"]


def test_version_2_takes_the_product_from_the_root() -> None:
    for amd, product in ((MILAN, "Milan"), (GENOA, "Genoa")):
        examination = examine(amd.vcek().evidence(version=2, cpuid=bytes(3)), amd)
        assert failures(examination) == {}
        assert examination.facts["product"] == product
    assert set(failures(examine(TURIN.vcek().evidence(version=2, cpuid=bytes(3)), TURIN))) == {"snp.product"}


def test_bergamo_is_of_genoas_line() -> None:
    examination = examine(GENOA.vcek().evidence(cpuid=b"\x19\xa0\x02"), GENOA)
    assert failures(examination) == {}
    assert (examination.facts["product"], examination.facts["processor"]) == ("Genoa", "Bergamo-Siena")


def test_a_changed_report_is_refused() -> None:
    chip = MILAN.vcek()
    body = bytearray(chip.report())
    body[0x90] ^= 1
    examination = examine(msgspec.structs.replace(chip.evidence(), body=bytes(body)))
    assert set(failures(examination)) == {"snp.signature"}


@pytest.mark.parametrize("r", [0, 1 << 383])
def test_signatures_out_of_range_are_refused(r: int) -> None:
    chip = MILAN.vcek()
    body = chip.report()[:0x2A0] + r.to_bytes(72, "little") + bytes(72) + bytes(0x170)
    assert set(failures(examine(msgspec.structs.replace(chip.evidence(), body=body)))) == {"snp.signature"}


def test_a_key_on_another_curve_signs_nothing() -> None:
    chip = MILAN.vcek(curve=ec.SECP256R1())
    assert set(failures(examine(chip.evidence()))) == {"snp.signature"}


def test_a_revoked_intermediate_is_refused() -> None:
    revoking = MILAN.crl(MILAN.hierarchy.ask.serial)
    assert "0x10001" in failures(examine(MILAN.vcek().evidence(crls=(revoking,))))["snp.revocation"]
    # The ASVK issues VLEKs only, so that the VCEK is not concerned.
    of_vleks = MILAN.crl(MILAN.hierarchy.asvk.serial)
    assert failures(examine(MILAN.vcek().evidence(crls=(of_vleks,)))) == {}
    assert "snp.revocation" in failures(examine(MILAN.vlek().evidence(crls=(of_vleks,))))


def test_crls_that_prove_nothing_are_refused() -> None:
    stranger = fake_amd(Product.MILAN, generation=1)
    for crl, reason in (
        (MILAN.crl(next_update=NOW - timedelta(hours=1)), "is current from"),
        (MILAN.crl(this_update=NOW + timedelta(hours=1)), "is current from"),
        (MILAN.crl(next_update=None), "nextUpdate"),
        (MILAN.crl(key=stranger.ark_key), "signature"),
        (GENOA.crl(), "not issued by 'ARK-Milan'"),
    ):
        for crls in ((crl,), (MILAN.crl(), crl)):
            assert reason in failures(examine(MILAN.vcek().evidence(crls=crls)))["snp.revocation"]


def test_without_a_crl_the_verdict_says_so() -> None:
    examination = examine(MILAN.vcek().evidence())
    assert examination.facts["revocation_checked"] is False
    assert [check.outcome for check in examination.checks if check.name == "snp.revocation"] == [Outcome.NOTE]


def test_an_expired_key_is_refused_with_the_dates() -> None:
    expired = MILAN.vcek(not_after=NOW - timedelta(seconds=1))
    assert "2026-06-01T11:59:59Z" in failures(examine(expired.evidence()))["snp.chain"]
    early = MILAN.vcek(not_before=NOW + timedelta(seconds=1))
    assert "2026-06-01T12:00:01Z" in failures(examine(early.evidence()))["snp.chain"]


def test_the_verdict_shows_how_long_its_collateral_is_current() -> None:
    collateral = examine(MILAN.vcek().evidence(crls=(MILAN.crl(),))).collateral
    assert collateral.not_before == NOW - timedelta(days=1)
    assert collateral.not_after == NOW + timedelta(days=30)
    assert examine(MILAN.vcek().evidence()).collateral.not_after == NOT_AFTER


def test_a_report_that_the_host_asked_for_is_refused() -> None:
    examination = examine(MILAN.vcek().evidence(vmpl=0xFFFFFFFF))
    assert set(failures(examination)) == {"snp.guest_requested"}


def test_all_64_bytes_of_report_data_are_compared() -> None:
    chip = MILAN.vcek()
    demanded = bytes(range(64))
    assert failures(examine(chip.evidence(demanded), binding=Binding(report_data=demanded))) == {}
    for other in (demanded[:63] + b"\x00", demanded[:32] + bytes(32), demanded[:32], demanded + b"\x00", b""):
        assert set(failures(examine(chip.evidence(demanded), binding=Binding(report_data=other)))) == {"snp.binding"}


def test_a_binding_of_another_kind_is_no_binding() -> None:
    examination = examine(MILAN.vcek().evidence(), binding=Binding(qualifying_data=bytes(32)))
    assert set(failures(examination)) == {"snp.binding"}


def test_no_binding_is_noted() -> None:
    assert (
        Check(
            "snp.binding",
            Outcome.NOTE,
            "nothing was demanded of REPORT_DATA: anybody may hold a copy of this report",
        )
        in examine(MILAN.vcek().evidence()).checks
    )


def test_rubbish_among_the_certificates_is_malformed() -> None:
    evidence = MILAN.vcek().evidence(beside=(b"\x30\x03\x02\x01\x00",))
    with pytest.raises(MalformedEvidenceError):
        examine(evidence)
    with pytest.raises(MalformedEvidenceError):
        examine(MILAN.vcek().evidence(crls=(b"\x30\x00",)))


def test_floods_of_certificates_are_malformed() -> None:
    chip: FakeChip = MILAN.vcek()
    with pytest.raises(MalformedEvidenceError, match="at most"):
        examine(chip.evidence(beside=(chip.certificate,) * MAX_CERTIFICATES))


def test_identity_is_of_the_signed_bytes_alone() -> None:
    chip = MILAN.vcek()
    unsigned = chip.unsigned_report()
    first, second = (msgspec.structs.replace(chip.evidence(), body=chip.sign(unsigned)) for _ in range(2))
    assert first.body != second.body
    assert examine(first).identity == examine(second).identity == hashlib.sha256(unsigned[:SIGNED_SIZE]).hexdigest()
