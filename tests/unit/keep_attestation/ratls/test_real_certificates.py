"""Certificates and requests that Gramine, rats-tls and Enarx made on real hardware."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest

from keep_attestation.certificates import read_certificate
from keep_attestation.errors import UnsupportedEvidenceError
from keep_attestation.policy import policy_from
from keep_attestation.ratls.certificate import read_ratls, read_ratls_request
from keep_attestation.ratls.conventions import tcg_dice
from keep_attestation.ratls.peer import verify_foreign
from keep_attestation.ratls.policy import CertificatePolicy
from keep_attestation.ratls.presentation import Convention
from tests.unit.keep_attestation.ratls.foreign import failed_checks, judge


def real_certificates(vectors: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for expected in sorted(vectors.glob("ratls/*/expected.json")):
        yield expected.parent, json.loads(expected.read_text())


def test_real_certificates_are_bound_to_their_keys(vectors: Path) -> None:
    accept = frozenset({Convention.TCG_DICE, Convention.GRAMINE, Convention.INTEL_SDK})
    seen = 0
    for folder, expected in real_certificates(vectors):
        data = (folder / "cert.pem").read_bytes()
        presented = read_ratls(data, accept=accept)
        assert hashlib.sha256(presented.spki).hexdigest() == expected["facts"]["spki_sha256"]
        certificate = read_certificate(data)
        assert str(certificate.not_before) == expected["facts"]["not_before"]
        assert str(certificate.not_after) == expected["facts"]["not_after"]
        peer = judge(presented, accept, at=certificate.not_before + timedelta(days=1), hours=24 * 365 * 40)
        assert peer.accepted is expected["verify"]["binding"], (folder.name, peer.verdict.summary)
        assert failed_checks(judge(presented, accept, at=certificate.not_after + timedelta(seconds=1)))[0] == (
            "ratls.validity"
        )
        seen += 1
    assert seen


def test_the_real_certificate_of_gramine_carries_the_quote_twice(vectors: Path) -> None:
    data = (vectors / "ratls/gramine-sgx/cert.pem").read_bytes()
    presented = read_ratls(data, accept=frozenset({Convention.TCG_DICE, Convention.GRAMINE}))
    assert [item.convention for item in presented.items] == [Convention.TCG_DICE, Convention.GRAMINE]
    with pytest.raises(UnsupportedEvidenceError):
        read_ratls(data, accept=frozenset({Convention.TCG_DICE}))


def test_the_claims_of_the_sdk_are_computed_as_a_real_certificate_holds_them(vectors: Path) -> None:
    certificate = read_certificate((vectors / "ratls/gramine-sgx/cert.pem").read_bytes())
    value = certificate.extensions[tcg_dice.EVIDENCE_OID]
    assert cbor2.loads(value).value[1] == tcg_dice.key_claims(certificate.spki)


@pytest.mark.parametrize("name", ["sgx/v3-enarx-xeon/quote.bin", "snp/milan-v2-enarx-idblock/report.bin"])
def test_real_requests_of_enarx_are_bound_to_their_keys(vectors: Path, name: str) -> None:
    accept = frozenset({Convention.ENARX})
    folder = (vectors / name).parent
    presented = read_ratls_request((folder / "enarx-csr.der").read_bytes(), accept=accept)
    assert presented.items[0].evidence.body == (vectors / name).read_bytes()
    peer = judge(presented, accept)
    assert peer.accepted, peer.verdict.summary
    if (folder / "vcek.der").exists():
        assert presented.items[0].evidence.endorsements.certificates == ((folder / "vcek.der").read_bytes(),)


def test_a_real_request_of_enarx_satisfies_the_verifier_of_snp(vectors: Path) -> None:
    folder = vectors / "snp/milan-v2-enarx-idblock"
    expected = json.loads((folder / "expected.json").read_text())
    table = {"measurements": [expected["facts"]["measurement"]], "chip_ids": [expected["facts"]["chip_id"]]}
    accept = frozenset({Convention.ENARX})
    peer = verify_foreign(
        read_ratls_request((folder / "enarx-csr.der").read_bytes(), accept=accept),
        policy_from({"snp": table}),
        certificate_policy=CertificatePolicy(accept=accept),
        at=datetime.fromisoformat(expected["verify"]["at"]),
    )
    assert peer.accepted, peer.verdict.summary


def test_real_debug_enclaves_are_refused_however_well_they_are_bound(vectors: Path) -> None:
    accept = frozenset({Convention.TCG_DICE, Convention.GRAMINE})
    for folder, expected in real_certificates(vectors):
        presented = read_ratls((folder / "cert.pem").read_bytes(), accept=accept)
        assert presented.certificate is not None
        peer = verify_foreign(
            presented,
            policy_from({"sgx": {}}),
            certificate_policy=CertificatePolicy(accept=accept, max_lifetime_hours=24 * 365 * 40),
            at=presented.certificate.not_before + timedelta(days=1),
        )
        if expected["verify"]["default_policy"] == "refuse: debug enclave":
            assert "sgx.debug" in failed_checks(peer), folder.name
