"""AMD's key distribution service: addresses, what comes from there, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keep_attestation.certificates import read_certificate
from keep_attestation.endorsement_sources.amd_kds import (
    AmdKdsSource,
    certificate_chain_url,
    crl_url,
    vcek_url,
)
from keep_attestation.endorsement_sources.interface import EndorsementNotFoundError, Fetched
from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.products import Product, TcbVersion
from keep_attestation.snp.vek import EndorsementKey, read_vek
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verdict import Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.endorsement_sources.manufacturer import Answer, Manufacturer
from tests.unit.keep_attestation.snp.evidence_of import evidence_of, expected_of, time_of, vector_folders
from tests.unit.keep_attestation.snp.forge import NOW, FakeAmd, FakeChip, fake_amd

MILAN = fake_amd(Product.MILAN)
GENOA = fake_amd(Product.GENOA)
TURIN = fake_amd(Product.TURIN)


def path_of(chip: FakeChip) -> str:
    return vcek_url(chip.product, chip.chip_id, chip.tcb).removeprefix("https://kdsintf.amd.com")


def serve(manufacturer: Manufacturer, amd: FakeAmd, chip: FakeChip) -> None:
    product = amd.product
    pem = "".join(
        x509.load_der_x509_certificate(certificate.der).public_bytes(Encoding.PEM).decode()
        for certificate in (amd.hierarchy.ask, amd.hierarchy.ark)
    )
    manufacturer.answers[path_of(chip)] = Answer(chip.certificate)
    manufacturer.answers[f"/vcek/v1/{product}/cert_chain"] = Answer(pem.encode())
    manufacturer.answers[f"/vcek/v1/{product}/crl"] = Answer(amd.crl())


def bare(evidence: Evidence) -> Evidence:
    return msgspec.structs.replace(evidence, endorsements=Endorsements())


def test_addresses_are_as_amd_documents_them() -> None:
    tcb = TcbVersion(bl=3, tee=0, snp=8, ucode=115)
    assert vcek_url(Product.MILAN, b"\xab" * 64, tcb) == (
        f"https://kdsintf.amd.com/vcek/v1/Milan/{'ab' * 64}?blSPL=3&teeSPL=0&snpSPL=8&ucodeSPL=115"
    )
    turin = TcbVersion(fmc=1, bl=2, tee=3, snp=4, ucode=71)
    assert vcek_url(Product.TURIN, b"\xab" * 8 + bytes(56), turin) == (
        f"https://kdsintf.amd.com/vcek/v1/Turin/{'ab' * 8}?fmcSPL=1&blSPL=2&teeSPL=3&snpSPL=4&ucodeSPL=71"
    )
    assert certificate_chain_url(Product.GENOA, EndorsementKey.VLEK) == (
        "https://kdsintf.amd.com/vlek/v1/Genoa/cert_chain"
    )
    assert crl_url(Product.GENOA, EndorsementKey.VCEK) == "https://kdsintf.amd.com/vcek/v1/Genoa/crl"


@pytest.mark.parametrize(
    "base",
    [
        "http://kdsintf.amd.com",
        "https://kdsintf.amd.com/mirror",
        "https://user@kdsintf.amd.com",
        "https://kdsintf.amd.com?x=",
        "https://kdsintf.amd.com#",
        "kdsintf.amd.com",
        "",
    ],
)
def test_bases_that_are_no_service_are_refused(base: str) -> None:
    with pytest.raises(EndorsementsError, match="no address"):
        crl_url(Product.MILAN, EndorsementKey.VCEK, base=base)


def test_ids_that_are_no_chips_are_refused() -> None:
    tcb = TcbVersion(fmc=0, bl=0, tee=0, snp=0, ucode=0)
    for product, chip_id in ((Product.TURIN, b"\xab" * 64), (Product.MILAN, b"\xab" * 63), (Product.MILAN, b"")):
        with pytest.raises(EndorsementsError):
            vcek_url(product, chip_id, tcb)


@pytest.mark.parametrize("product", Product)
def test_a_bare_report_gets_what_it_needs(manufacturer: Manufacturer, product: Product) -> None:
    amd = fake_amd(product)
    chip = amd.vcek()
    serve(manufacturer, amd, chip)
    evidence = bare(chip.evidence())
    found = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base).endorsements_for(evidence)
    assert found.certificates == (chip.certificate,)
    whole = msgspec.structs.replace(evidence, endorsements=found)
    examination = examine_snp(whole, binding=None, at=NOW, anchors=amd.anchors)
    assert not [check for check in examination.checks if check.outcome is Outcome.FAIL]
    assert examination.facts["revocation_checked"] is True


def test_a_report_of_version_2_is_looked_for_among_its_products(manufacturer: Manufacturer) -> None:
    chip = GENOA.vcek()
    serve(manufacturer, GENOA, chip)
    source = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base)
    found = source.endorsements_for(bare(chip.evidence(version=2, cpuid=bytes(3))))
    assert found.certificates == (chip.certificate,)
    assert [path.split("/")[3] for path in manufacturer.asked] == ["Milan", "Genoa", "Genoa"]


def test_only_what_is_missing_is_asked_for(manufacturer: Manufacturer) -> None:
    chip = MILAN.vcek()
    serve(manufacturer, MILAN, chip)
    source = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base)
    assert source.endorsements_for(chip.evidence()).certificates == ()
    assert manufacturer.asked == ["/vcek/v1/Milan/crl"]
    older = MILAN.vcek(tcb=TcbVersion(bl=1, tee=0, snp=1, ucode=1))
    stapled = msgspec.structs.replace(chip.evidence(), endorsements=older.evidence().endorsements)
    assert source.endorsements_for(stapled).certificates == (chip.certificate,)


def test_the_chain_comes_when_it_is_wanted(manufacturer: Manufacturer) -> None:
    chip = MILAN.vcek()
    serve(manufacturer, MILAN, chip)
    source = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base, with_chain=True, with_crl=False)
    found = source.endorsements_for(bare(chip.evidence()))
    assert found.certificates == (chip.certificate, MILAN.hierarchy.ask.der, MILAN.hierarchy.ark.der)
    assert found.crls == ()


def test_a_chip_that_the_service_does_not_know_is_named(manufacturer: Manufacturer) -> None:
    source = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base)
    with pytest.raises(EndorsementNotFoundError, match="no VCEK of chip 0102030405060708… at the TCB 04"):
        source.endorsements_for(bare(MILAN.vcek().evidence()))


def test_what_cannot_be_asked_for_is_refused_without_asking() -> None:
    def fetch(url: str) -> Fetched:
        raise AssertionError(f"{url} was asked")

    source = AmdKdsSource(fetch)
    vcek, vlek = MILAN.vcek(), MILAN.vlek()
    for evidence, reason in (
        (bare(vlek.evidence()), "VLEK"),
        (bare(vcek.evidence(chip_id=bytes(64))), "masks"),
        (bare(vcek.evidence(key_info=7 << 2)), "not signed"),
        (bare(vcek.evidence(cpuid=b"\x17\x01\x01")), "family 0x17"),
        (Evidence(kind=EvidenceKind.SNP, body=b"short"), "1184"),
        (Evidence(kind=EvidenceKind.SNP, body=vcek.report(), endorsements=Endorsements(certificates=(b"x",))), "DER"),
    ):
        with pytest.raises(EndorsementsError, match=reason):
            source.endorsements_for(evidence)
    assert source.endorsements_for(Evidence(kind=EvidenceKind.TDX, body=b"quote")) == Endorsements()


def test_an_answer_that_is_no_certificate_is_refused(manufacturer: Manufacturer) -> None:
    chip = MILAN.vcek()
    manufacturer.answers[path_of(chip)] = Answer(b"<html>")
    with pytest.raises(EndorsementsError):
        AmdKdsSource(manufacturer.fetch(), base=manufacturer.base).endorsements_for(bare(chip.evidence()))


@pytest.mark.parametrize("folder", vector_folders())
def test_real_reports_are_asked_for_at_the_documented_paths(folder: Path, manufacturer: Manufacturer) -> None:
    expected = expected_of(folder)
    if expected.get("endorsement_key") != "VCEK":
        pytest.skip("only VCEKs are at the service")
    evidence = evidence_of(folder)
    certificate = evidence.endorsements.certificates[0]
    tcb = expected["reported_tcb"]
    levels = "&".join(f"{part}SPL={tcb[part]}" for part in ("fmc", "bl", "tee", "snp", "ucode") if part in tcb)
    hardware_id = read_vek(read_certificate(certificate)).hardware_id
    assert hardware_id is not None
    manufacturer.answers[f"/vcek/v1/{expected['product']}/{hardware_id.hex()}?{levels}"] = Answer(certificate)
    found = AmdKdsSource(manufacturer.fetch(), base=manufacturer.base, with_crl=False).endorsements_for(bare(evidence))
    whole = msgspec.structs.replace(evidence, endorsements=found)
    checks = examine_snp(whole, binding=None, at=time_of(expected)).checks
    assert not [check for check in checks if check.outcome is Outcome.FAIL]
