"""Intel's provisioning certification service: collateral put together from its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent

import msgspec
import pytest

from keep_attestation.endorsement_sources.intel_pcs import IntelPcsSource, platform_of
from keep_attestation.errors import EndorsementsError
from keep_attestation.evidence import Endorsements, Evidence
from keep_protocol.evidence import EvidenceKind
from tests.unit.keep_attestation.endorsement_sources.manufacturer import Answer, Manufacturer

ROOT_CA_CRL = "/IntelSGXRootCA.der"


def quotes_with_collateral(vectors: Path) -> Iterator[tuple[Evidence, str, dict[str, Any]]]:
    """Real quotes with their FMSPC and every collateral of it."""
    for kind in (EvidenceKind.TDX, EvidenceKind.SGX):
        for folder in sorted((vectors / kind.value).iterdir()):
            fmspc = json.loads((folder / "expected.json").read_bytes()).get("facts", {}).get("fmspc")
            for path in sorted((vectors / "collateral").glob(f"{kind.value}-{fmspc}-*.json")):
                if not path.name.endswith(".meta.json"):
                    body = (folder / "quote.bin").read_bytes()
                    yield Evidence(kind=kind, body=body), fmspc, json.loads(path.read_bytes())


def serve(manufacturer: Manufacturer, evidence: Evidence, fmspc: str, collateral: dict[str, Any]) -> None:
    """The answers of Intel's service from which `collateral` was once made."""
    service = f"/{evidence.kind.value}/certification/v4"
    tcb_info = f'{{"tcbInfo":{collateral["tcb_info"]},"signature":"{collateral["tcb_info_signature"]}"}}'
    identity = f'{{"enclaveIdentity":{collateral["qe_identity"]},"signature":"{collateral["qe_identity_signature"]}"}}'
    _, ca = platform_of(evidence.body)
    manufacturer.answers.update(
        {
            f"{service}/tcb?fmspc={fmspc}": Answer(
                tcb_info.encode(), headers={"TCB-Info-Issuer-Chain": percent(collateral["tcb_info_issuer_chain"])}
            ),
            f"{service}/qe/identity": Answer(
                identity.encode(),
                headers={"SGX-Enclave-Identity-Issuer-Chain": percent(collateral["qe_identity_issuer_chain"])},
            ),
            f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der": Answer(
                bytes.fromhex(collateral["pck_crl"]),
                headers={"SGX-PCK-CRL-Issuer-Chain": percent(collateral["pck_crl_issuer_chain"])},
            ),
            ROOT_CA_CRL: Answer(bytes.fromhex(collateral["root_ca_crl"])),
        }
    )


def source_of(manufacturer: Manufacturer) -> IntelPcsSource:
    root_ca_crl_url = manufacturer.base + ROOT_CA_CRL
    return IntelPcsSource(manufacturer.fetch(), base=manufacturer.base, root_ca_crl_url=root_ca_crl_url)


def test_real_collateral_is_put_together_as_it_was_signed(vectors: Path, manufacturer: Manufacturer) -> None:
    seen = 0
    for evidence, fmspc, collateral in quotes_with_collateral(vectors):
        serve(manufacturer, evidence, fmspc, collateral)
        found = source_of(manufacturer).endorsements_for(evidence)
        assert found.collateral is not None
        assert json.loads(found.collateral) == collateral
        seen += 1
    assert seen


def test_collateral_that_came_along_is_not_asked_for_again(vectors: Path, manufacturer: Manufacturer) -> None:
    evidence, _, _ = next(quotes_with_collateral(vectors))
    stapled = msgspec.structs.replace(evidence, endorsements=Endorsements(collateral=b"{}"))
    assert source_of(manufacturer).endorsements_for(stapled) == Endorsements()
    assert manufacturer.asked == []


def test_answers_that_are_not_as_documented_are_refused(vectors: Path, manufacturer: Manufacturer) -> None:
    evidence, fmspc, collateral = next(quotes_with_collateral(vectors))
    serve(manufacturer, evidence, fmspc, collateral)
    genuine = dict(manufacturer.answers)
    tcb = next(path for path in genuine if "/tcb?" in path)
    for path, answer, reason in (
        (tcb, Answer(genuine[tcb].body), "tcb-info-issuer-chain"),
        (tcb, Answer(b"<html>", headers=genuine[tcb].headers), "documented form"),
        (tcb, Answer(b'{"signature": ""}', headers=genuine[tcb].headers), "documented form"),
        (tcb, Answer(b'{"tcbInfo": "\xff", "signature": ""}', headers=genuine[tcb].headers), "UTF-8"),
        (tcb, Answer(b"[" * 100_000, headers=genuine[tcb].headers), "documented form"),
        (ROOT_CA_CRL, Answer(status=503), "503"),
    ):
        manufacturer.answers.update(genuine | {path: answer})
        with pytest.raises(EndorsementsError, match=reason):
            source_of(manufacturer).endorsements_for(evidence)


@pytest.mark.parametrize("body", [b"", b"quote", bytes(5000)])
def test_quotes_that_name_no_platform_are_refused(body: bytes) -> None:
    with pytest.raises(EndorsementsError):
        platform_of(body)


def test_quotes_without_a_certificate_are_refused(vectors: Path) -> None:
    folder = vectors / "sgx" / "v3-cert-type-3-eppid"
    if not folder.exists():
        pytest.skip("these vectors have no such quote")
    with pytest.raises(EndorsementsError, match="names no platform"):
        platform_of((folder / "quote.bin").read_bytes())


def test_other_kinds_need_nothing_from_intel(manufacturer: Manufacturer) -> None:
    evidence = Evidence(kind=EvidenceKind.SNP, body=b"report")
    assert source_of(manufacturer).endorsements_for(evidence) == Endorsements()
    assert manufacturer.asked == []


@pytest.mark.parametrize(
    "base", ["http://api.trustedservices.intel.com", "https://a@b", "https://a/b", "https://", "a"]
)
def test_bases_that_are_no_service_are_refused(manufacturer: Manufacturer, base: str) -> None:
    with pytest.raises(ValueError, match="no base"):
        IntelPcsSource(manufacturer.fetch(), base=base)
