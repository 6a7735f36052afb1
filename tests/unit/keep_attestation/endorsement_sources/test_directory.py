"""Endorsements from a folder of files."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keep_attestation.endorsement_sources.directory import MAX_FILE_SIZE, DirectorySource
from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence
from keep_attestation.snp.products import Product, TcbVersion
from keep_attestation.snp.verifier import examine_snp
from keep_attestation.verdict import Outcome
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.endorsement_sources.test_intel_pcs import quotes_with_collateral
from tests.unit.keep_attestation.snp.evidence_of import evidence_of, expected_of, time_of
from tests.unit.keep_attestation.snp.forge import NOW, fake_amd

MILAN = fake_amd(Product.MILAN)
GENOA = fake_amd(Product.GENOA)


def bare(evidence: Evidence) -> Evidence:
    return msgspec.structs.replace(evidence, endorsements=Endorsements())


def test_a_report_gets_the_key_that_fits_chip_and_tcb(tmp_path: Path) -> None:
    chip = MILAN.vcek()
    strangers = (
        MILAN.vcek(hardware_id=b"\xaa" * 64),
        MILAN.vcek(tcb=TcbVersion(bl=1, tee=0, snp=1, ucode=1)),
        MILAN.vlek(),
        GENOA.vcek(),
    )
    for number, each in enumerate((*strangers, chip)):
        (tmp_path / f"{number}.der").write_bytes(each.certificate)
    found = DirectorySource(tmp_path).endorsements_for(bare(chip.evidence()))
    assert found == Endorsements(certificates=(chip.certificate,))


def test_a_report_gets_the_crl_of_its_own_root_only(tmp_path: Path) -> None:
    chip = MILAN.vcek()
    crl = MILAN.crl()
    (tmp_path / "vcek.der").write_bytes(chip.certificate)
    (tmp_path / "milan.crl").write_bytes(crl)
    (tmp_path / "genoa.der").write_bytes(GENOA.crl())
    source = DirectorySource(tmp_path)
    assert source.endorsements_for(bare(chip.evidence())).crls == (crl,)
    (tmp_path / "vcek.der").unlink()
    assert source.endorsements_for(chip.evidence()).crls == (crl,)
    assert source.endorsements_for(bare(chip.evidence())) == Endorsements()


def test_certificates_and_crls_may_be_pem(tmp_path: Path) -> None:
    crl = MILAN.crl()
    pem = x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)
    authorities = b"".join(
        x509.load_der_x509_certificate(each.der).public_bytes(Encoding.PEM) for each in MILAN.hierarchy.certificates
    )
    (tmp_path / "milan.crl").write_bytes(pem)
    (tmp_path / "again.pem").write_bytes(pem)
    (tmp_path / "authorities.pem").write_bytes(authorities)
    found = DirectorySource(tmp_path).endorsements_for(Evidence(kind=EvidenceKind.TPM, body=b""))
    assert found.crls == (crl, crl)
    assert found.certificates == tuple(each.der for each in MILAN.hierarchy.certificates)


def test_files_of_other_names_are_passed_over(tmp_path: Path) -> None:
    for name in ("README.md", ".hidden.der", "vcek.der.bak", "notes.json"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "folder.der").mkdir()
    assert DirectorySource(tmp_path).endorsements_for(MILAN.vcek().evidence()) == Endorsements()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.der", b"0"),
        ("broken.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("broken.crl", b"-----BEGIN X509 CRL-----\n"),
        ("broken.crl", b"\xff"),
        ("broken.json", b'{"vcekCert": 1}'),
        ("broken.json", b'{"tcb_info_issuer_chain": "", "tcb_info": "{}"}'),
        ("broken.der", bytes(MAX_FILE_SIZE + 1)),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EndorsementsError, match=name):
        DirectorySource(tmp_path).endorsements_for(MILAN.vcek().evidence())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EndorsementsError, match="absent"):
        DirectorySource(tmp_path / "absent").endorsements_for(MILAN.vcek().evidence())


def test_evidence_that_cannot_be_read_gets_nothing(tmp_path: Path) -> None:
    for kind in (EvidenceKind.SNP, EvidenceKind.TDX):
        with pytest.raises(EndorsementsError):
            DirectorySource(tmp_path).endorsements_for(Evidence(kind=kind, body=b"short"))


def test_a_real_fleets_folder_serves_each_of_its_reports(vectors: Path, tmp_path: Path) -> None:
    folders = [path.parent for path in sorted((vectors / "snp").glob("*/vcek.der"))]
    for folder in folders:
        (tmp_path / f"{folder.name}.der").write_bytes((folder / "vcek.der").read_bytes())
    for folder in folders:
        evidence = bare(evidence_of(folder))
        found = DirectorySource(tmp_path).endorsements_for(evidence)
        assert found.certificates == ((folder / "vcek.der").read_bytes(),)
        whole = msgspec.structs.replace(evidence, endorsements=found)
        checks = examine_snp(whole, binding=None, at=time_of(expected_of(folder))).checks
        assert not [check for check in checks if check.outcome is Outcome.FAIL]


def test_a_thim_reply_serves_its_report(vectors: Path, tmp_path: Path) -> None:
    folder = vectors / "snp" / "milan-v2-aci-hostdata"
    if not folder.exists():
        pytest.skip("these vectors have no THIM reply")
    (tmp_path / "thim.json").write_bytes((folder / "thim-certs.json").read_bytes())
    found = DirectorySource(tmp_path).endorsements_for(bare(evidence_of(folder)))
    assert found.certificates == ((folder / "vcek.der").read_bytes(),)


def test_a_quote_gets_the_newest_collateral_of_its_platform(vectors: Path, tmp_path: Path) -> None:
    cases = list(quotes_with_collateral(vectors))
    for path in (vectors / "collateral").glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert cases
    for evidence, fmspc, _ in cases:
        found = DirectorySource(tmp_path).endorsements_for(evidence).collateral
        assert found is not None
        of_platform = [
            json.loads(each["tcb_info"])["issueDate"]
            for other, its_fmspc, each in cases
            if (other.kind, its_fmspc) == (evidence.kind, fmspc)
        ]
        tcb_info = json.loads(json.loads(found)["tcb_info"])
        assert tcb_info["fmspc"].upper() == fmspc
        assert tcb_info["issueDate"] == max(of_platform)


def test_evidence_is_genuine_by_a_folder_alone(tmp_path: Path) -> None:
    chip = MILAN.vcek()
    (tmp_path / "vcek.cer").write_bytes(chip.certificate)
    (tmp_path / "ark.crl").write_bytes(MILAN.crl())
    evidence = bare(chip.evidence())
    whole = msgspec.structs.replace(evidence, endorsements=DirectorySource(tmp_path).endorsements_for(evidence))
    examination = examine_snp(whole, binding=None, at=NOW, anchors=MILAN.anchors)
    assert examination.facts["revocation_checked"] is True
    assert not [check for check in examination.checks if check.outcome is Outcome.FAIL]
