"""Real files as clouds and tools wrote them: their bytes say what they are, and what lies beside them is used."""

from __future__ import annotations

import base64
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keep_attestation.errors import AttestationError
from keep_attestation.evidence_files.reading import EvidenceFile, detect, read_evidence
from keep_attestation.ratls.certificate import PresentedEvidence
from keep_attestation.ratls.presentation import Convention
from keep_attestation.verdict import Examination, Outcome
from keep_attestation.verification import examiner_of
from keep_protocol.evidence import EvidenceKind

_CONVENTIONS = frozenset(Convention) - {Convention.A3S}
_KINDS = {"snp": "snp", "tdx": "tdx", "sgx": "sgx", "nitro": "nitro", "tpm": "tpm"}


def _folders(*names: str) -> list[Any]:
    root = os.environ.get("WASMKEEP_VECTORS")
    if not root:
        skipped = pytest.mark.skip(reason="WASMKEEP_VECTORS names no folder with attestation vectors")
        return [pytest.param(Path(), marks=skipped, id="none")]
    found = sorted(path.parent for name in names for path in Path(root, name).glob("*/expected.json"))
    return [pytest.param(path, id=f"{path.parent.name}-{path.name}") for path in found]


def _expected(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "expected.json").read_bytes())
    assert isinstance(document, dict)
    return document


def _examined(file: EvidenceFile, at: datetime) -> Examination:
    return examiner_of(file.kind)(file.evidence, binding=None, at=at)


def _passed(examination: Examination, name: str) -> bool:
    return any(check.name == name and check.outcome is Outcome.PASS for check in examination.checks)


@pytest.mark.parametrize("folder", _folders("snp"))
def test_a_folder_with_a_report_yields_it_with_the_endorsements_that_fit(folder: Path) -> None:
    expected = _expected(folder)
    at = datetime.fromisoformat(expected["verify"].get("at", "2026-01-01T00:00:00+00:00"))
    examination = _examined(read_evidence(folder, at=at), at)
    wanted = {name: expected["facts"][name] for name in ("measurement", "report_data", "host_data", "chip_id", "vmpl")}
    assert {name: examination.facts[name] for name in wanted} == wanted
    for name, check in (("signature", "snp.signature"), ("chain", "snp.chain"), ("tcb_matches_vek", "snp.tcb")):
        assert _passed(examination, check) is bool(expected["verify"].get(name))


@pytest.mark.parametrize("folder", _folders("tdx", "sgx"))
def test_a_quote_finds_the_collateral_of_its_platform_and_time(folder: Path) -> None:
    expected = _expected(folder)
    collateral = folder.parents[1] / "collateral"
    for result in expected["verify"].get("dcap_qvl_0_7_0", ()):
        at = datetime.fromtimestamp(result["at"], UTC)
        named = read_evidence(folder, collateral=collateral / f"{result['collateral']}.json", at=at)
        examination = _examined(named, at)
        assert examination.facts.get("tcb_status") == (result.get("tcb_status") or examination.facts.get("tcb_status"))
        assert _passed(examination, f"{named.kind}.signature") is expected["verify"]["signature"]
        sought = read_evidence(folder, endorsements=[collateral], at=at)
        assert sought.evidence.endorsements.collateral is not None
        assert sought.evidence.body == named.evidence.body


@pytest.mark.parametrize("folder", _folders("nitro"))
def test_a_document_is_the_same_in_binary_hex_and_base64(folder: Path, tmp_path: Path) -> None:
    documents = list(folder.glob("*.cbor"))
    if not documents:
        with pytest.raises(AttestationError, match="no evidence"):
            read_evidence(folder)
        return
    data = documents[0].read_bytes()
    forms = [data, data.hex().encode(), b"0x" + data.hex().upper().encode(), base64.encodebytes(data)]
    forms.append(base64.urlsafe_b64encode(data).rstrip(b"="))
    for number, form in enumerate(forms):
        (path := tmp_path / f"{number}.txt").write_bytes(form)
        assert read_evidence(path).evidence.body == data
        assert detect(form) is EvidenceKind.NITRO


@pytest.mark.parametrize("folder", _folders("tpm", "azure-vtpm"))
def test_a_quote_in_several_files_is_put_together_or_what_is_missing_is_named(folder: Path) -> None:
    expected = _expected(folder)
    at = datetime(2026, 6, 1, tzinfo=UTC)
    if not (folder / "hcl_report.bin").exists() and not any(folder.glob("ak_pub.*")):
        with pytest.raises(AttestationError, match="missing"):
            read_evidence(folder, at=at)
        return
    file = read_evidence(folder, at=at)
    examination = _examined(file, at)
    kind = "tpm" if file.kind is EvidenceKind.TPM else "azure"
    genuine = expected["verify"].get("quote_signature", expected["verify"].get("signature"))
    assert _passed(examination, f"{kind}.signature") is genuine
    assert examination.facts["nonce"] == expected["facts"]["nonce"]
    if file.kind is EvidenceKind.TPM:
        # A plain key can be checked with, and not be believed.
        assert _passed(examination, "tpm.ak") is (folder / "ak_pub.tpmt").exists()
    assert file.kind == "tpm" or file.kind == f"azure-{expected['facts']['tee']}"


@pytest.mark.parametrize("folder", _folders("ratls"))
def test_certificates_of_others_yield_all_their_evidence(folder: Path) -> None:
    file = read_evidence(folder, accept=_CONVENTIONS)
    assert isinstance(file.subject, PresentedEvidence)
    assert file.kind is EvidenceKind.SGX
    with pytest.raises(AttestationError, match="not accepted"):
        read_evidence(folder)


@pytest.mark.parametrize("folder", _folders(*_KINDS))
def test_the_name_of_a_file_means_nothing(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.suffix in (".bin", ".cbor", ".dat", ".msg"):
            (disguised := tmp_path / "vcek.der").write_bytes(path.read_bytes())
            try:
                kind = detect(disguised.read_bytes())
            except AttestationError:
                continue
            assert kind == folder.parent.name


def test_a_padded_quote_is_the_same_quote(vectors: Path) -> None:
    for padded in vectors.glob("tdx/*/quote_padded_*"):
        assert read_evidence(padded).evidence.body == read_evidence(padded.parent / "quote.bin").evidence.body


def test_a_file_alone_uses_what_lies_beside_it(vectors: Path, tmp_path: Path) -> None:
    folders = sorted(path for path in (vectors / "snp").iterdir() if (path / "vcek.der").exists())
    for path in folders[0].iterdir():
        shutil.copy(path, tmp_path)
    beside = read_evidence(tmp_path / "report.bin")
    assert {path.name for path in beside.used} >= {"report.bin", "vcek.der"}
    for path in tmp_path.glob("*.der"):
        path.unlink()
    assert not read_evidence(tmp_path / "report.bin").evidence.endorsements.certificates
    given = read_evidence(tmp_path / "report.bin", endorsements=[folders[0] / "vcek.der"])
    assert len(given.evidence.endorsements.certificates) == 1


def test_several_pieces_of_evidence_in_a_folder_are_refused_by_name(vectors: Path, tmp_path: Path) -> None:
    reports = sorted(vectors.glob("snp/*/report.bin"))[:2]
    for number, report in enumerate(reports):
        shutil.copy(report, tmp_path / f"{number}.bin")
    quote = sorted(vectors.glob("tdx/*/quote.bin"))[0]
    shutil.copy(quote, tmp_path / "quote.bin")
    assert read_evidence(tmp_path, kind=EvidenceKind.TDX).evidence.body == read_evidence(quote).evidence.body
    (tmp_path / "quote.bin").unlink()
    with pytest.raises(AttestationError, match=r"several pieces of evidence: 0\.bin, 1\.bin; name one of them"):
        read_evidence(tmp_path)
