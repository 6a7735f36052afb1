"""Whether real documents verify as their expectations say, and no changed one does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from keep_attestation.certificates import read_certificate
from keep_attestation.errors import AttestationError, MalformedEvidenceError
from keep_attestation.nitro.document import parse_document
from keep_attestation.nitro.policy import NitroPolicy
from keep_attestation.nitro.verifier import examine_nitro
from keep_attestation.verdict import Outcome
from tests.unit.keep_attestation.nitro.forge import binding_of, nitro_evidence


def documents(vectors: Path) -> list[tuple[dict[str, Any], bytes]]:
    found = [path.parent for path in sorted((vectors / "nitro").glob("*/doc.cbor"))]
    assert found, "no vectors of Nitro documents"
    return [
        (json.loads((folder / "expected.json").read_text()), (folder / "doc.cbor").read_bytes()) for folder in found
    ]


def genuine(vectors: Path) -> list[tuple[dict[str, Any], bytes, datetime]]:
    return [
        (expected, raw, datetime.fromtimestamp(expected["verify"]["at_ms"] / 1000, UTC))
        for expected, raw in documents(vectors)
        if expected["verify"]["signature"]
    ]


def passes(raw: bytes, at: datetime) -> bool:
    try:
        checks = examine_nitro(nitro_evidence(raw), binding=None, at=at).checks
    except MalformedEvidenceError:
        return False
    return all(check.outcome is not Outcome.FAIL for check in checks)


def test_genuine_documents_verify_at_their_time_with_the_expected_facts(vectors: Path) -> None:
    for expected, raw, at in genuine(vectors):
        examination = examine_nitro(nitro_evidence(raw), binding=binding_of(raw), at=at)
        assert all(check.outcome is not Outcome.FAIL for check in examination.checks), expected["name"]
        document = parse_document(raw)
        facts = dict(expected["facts"])
        assert len(document.cabundle) == facts.pop("cabundle_len")
        assert (document.payload[0] == 0xBF) is facts.pop("payload_indefinite_map")
        assert {name: examination.facts[name] for name in facts} == facts, expected["name"]
        begin, end = (datetime.fromisoformat(moment) for moment in expected["valid_time"])
        assert (examination.collateral.not_before, examination.collateral.not_after) == (begin, end)


def test_genuine_documents_are_refused_after_their_leaf_s_life(vectors: Path) -> None:
    for expected, raw, at in genuine(vectors):
        assert passes(raw, at), expected["name"]
        assert not passes(raw, datetime.fromisoformat(expected["valid_time"][1]) + timedelta(seconds=1))
        assert not passes(raw, datetime(2026, 11, 20, tzinfo=UTC)), expected["name"]


def test_policies_accept_production_enclaves_and_refuse_debug_ones(vectors: Path) -> None:
    for expected, raw, at in genuine(vectors):
        facts = examine_nitro(nitro_evidence(raw), binding=None, at=at).facts
        debug = expected["facts"]["debug_mode"]
        reference = "01" * 48 if debug else facts["pcrs"]["0"]
        rules = NitroPolicy(pcrs={"0": (reference,)}, instance_ids=(facts["instance_id"],)).rules()
        failed = {check.name for rule in rules if (check := rule.check(facts)).outcome is Outcome.FAIL}
        assert failed == ({"nitro.debug", "nitro.pcr0"} if debug else set()), expected["name"]


def test_tampered_documents_are_refused(vectors: Path) -> None:
    tampered = [(expected, raw) for expected, raw in documents(vectors) if not expected["verify"]["signature"]]
    assert tampered
    for expected, raw in tampered:
        try:
            at = parse_document(raw).timestamp
        except MalformedEvidenceError:
            continue
        assert not passes(raw, at), expected["name"]


def test_with_foreign_roots_pinned_real_documents_are_refused(vectors: Path) -> None:
    anchors = set()
    for path in (vectors / "nitro").glob("*/*.pem"):
        try:
            anchors.add(read_certificate(path.read_bytes()).sha256)
        except AttestationError:
            continue
    anchors.add(sha256(b"nobody").hexdigest())
    for expected, raw, at in genuine(vectors):
        checks = examine_nitro(nitro_evidence(raw), binding=None, at=at, anchors=anchors).checks
        assert checks[0].outcome is Outcome.FAIL, expected["name"]


def test_a_flipped_byte_anywhere_is_refused(vectors: Path) -> None:
    for position, (expected, raw, at) in enumerate(genuine(vectors)):
        for offset in range(position, len(raw), 37):
            flipped = raw[:offset] + bytes([raw[offset] ^ 0x01]) + raw[offset + 1 :]
            assert not passes(flipped, at), f"{expected['name']}: byte {offset}"


def test_cut_and_extended_documents_are_refused(vectors: Path) -> None:
    for expected, raw, at in genuine(vectors):
        for length in range(0, len(raw), 53):
            assert not passes(raw[:length], at), expected["name"]
        assert not passes(raw + b"\x00", at), expected["name"]
