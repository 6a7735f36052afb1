"""Whether real quotes verify as their expectations say in every collateral window, and no changed one does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from keep_attestation.errors import MalformedEvidenceError
from keep_attestation.evidence import Evidence
from keep_attestation.intel.quote import parse_quote
from tests.unit.keep_attestation.intel.forge import Tee
from tests.unit.keep_attestation.intel.outcomes import examine, failures
from tests.unit.keep_attestation.intel.vector_cases import Window, read_vectors, windows


def passes(evidence: Evidence, at: datetime) -> bool:
    try:
        return not failures(examine(evidence, at=at))
    except MalformedEvidenceError:
        return False


def genuine(vectors: Path, tee: Tee) -> list[Window]:
    found = [window for window in windows(vectors, tee) if window.verified]
    assert found
    return found


def test_each_window_gives_the_expected_outcome_status_and_advisories(vectors: Path, tee: Tee) -> None:
    for window in windows(vectors, tee):
        examination = examine(window.evidence, at=window.at)
        reasons = failures(examination)
        label = f"{window.vector.name} at {window.at}"
        if window.verified:
            assert reasons == {}, label
            assert examination.facts["tcb_status"] == window.tcb_status, label
            assert sorted(examination.facts["advisories"]) == sorted(window.advisories), label
        else:
            assert window.error is not None
            assert window.error.removeprefix("Verification failed: ") in reasons[f"{tee}.tcb"], label
            assert "tcb_status" not in examination.facts, label


def test_facts_are_those_of_quote_and_pck_certificate(vectors: Path, tee: Tee) -> None:
    for window in windows(vectors, tee):
        vector = window.vector
        expected = vector.facts | vector.pck_facts
        facts = examine(window.evidence, at=window.at).facts
        assert {name: facts.get(name) for name in expected} == expected, vector.name


def test_the_three_signatures_hold_or_not_as_expected_without_any_collateral(vectors: Path, tee: Tee) -> None:
    for vector in read_vectors(vectors, tee):
        if vector.expected["verify"].get("cert_type", 5) != 5:
            continue
        begin, _ = vector.expected["verify"].get("pck_valid", ("2025-01-01 00:00:00+00:00", None))
        reasons = failures(examine(vector.evidence(), at=datetime.fromisoformat(begin) + timedelta(days=1)))
        signatures = {f"{tee}.{step}" for step in ("pck_chain", "qe_signature", "attestation_key", "signature")}
        assert (not signatures & set(reasons)) is vector.expected["verify"]["signature"], vector.name


def test_quotes_without_a_pck_chain_are_refused_by_the_type_of_what_they_have(vectors: Path) -> None:
    found = [v for v in read_vectors(vectors, "sgx") if v.expected["verify"].get("cert_type", 5) != 5]
    assert found
    for vector in found:
        examination = examine(vector.evidence(), at=datetime(2025, 1, 1, tzinfo=UTC))
        kind = vector.expected["verify"]["cert_type"]
        assert f"certification data type {kind}" in failures(examination)["sgx.pck_chain"]
        assert {name: examination.facts.get(name) for name in vector.facts} == vector.facts


def test_collateral_dates_are_recorded_and_outside_them_the_same_evidence_is_refused(vectors: Path, tee: Tee) -> None:
    for window in genuine(vectors, tee):
        begin = datetime.fromtimestamp(window.dates["valid_from"], UTC)
        end = datetime.fromtimestamp(window.dates["valid_until"], UTC)
        dates = examine(window.evidence, at=window.at).collateral
        assert (dates.not_before, dates.not_after) == (begin, end), window.vector.name
        assert dates.evaluation_number == min(window.dates["tcb_eval"], window.dates["qe_eval"])
        assert passes(window.evidence, begin)
        assert not passes(window.evidence, begin - timedelta(seconds=1))
        assert passes(window.evidence, end - timedelta(seconds=1))
        assert not passes(window.evidence, end + timedelta(seconds=1))


def test_every_changed_byte_of_the_signed_part_is_refused(vectors: Path, tee: Tee) -> None:
    for window in genuine(vectors, tee):
        body = window.vector.body
        for offset in range(0, len(parse_quote(body).signed), 11):
            changed = body[:offset] + bytes([body[offset] ^ 1]) + body[offset + 1 :]
            evidence = window.vector.evidence(window.collateral, body=changed)
            assert not passes(evidence, window.at), (window.vector.name, offset)


def test_every_changed_byte_of_the_signatures_and_the_quoting_enclave_is_refused(vectors: Path, tee: Tee) -> None:
    window = genuine(vectors, tee)[0]
    body = window.vector.body
    quote = parse_quote(body)
    first, last = len(quote.signed), body.index(quote.certification_data)
    for offset in range(first, last, 3):
        changed = body[:offset] + bytes([body[offset] ^ 0x80]) + body[offset + 1 :]
        assert not passes(window.vector.evidence(window.collateral, body=changed), window.at), offset


def test_cut_and_prolonged_quotes_are_refused(vectors: Path, tee: Tee) -> None:
    for window in genuine(vectors, tee):
        body = window.vector.body
        for changed in (*(body[:size] for size in range(1, len(body), 97)), body + b"\x00", body + b"x", body + body):
            assert not passes(window.vector.evidence(window.collateral, body=changed), window.at), window.vector.name
