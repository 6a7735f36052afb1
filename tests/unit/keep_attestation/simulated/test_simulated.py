"""Simulated evidence: made by the keep's own code, read by the verifier's, and worth nothing in production."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from app_loader.attesters.simulated import attest
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Binding, Evidence
from keep_attestation.policy import Policy
from keep_attestation.simulated.evidence import parse_simulated
from keep_attestation.simulated.policy import SimulatedPolicy
from keep_attestation.simulated.verifier import examine_simulated
from keep_attestation.verdict import Outcome, Verdict
from keep_attestation.verification import verify
from keep_protocol.evidence import EvidenceKind, encode_cbor
from keep_protocol.simulated import (
    FORMAT,
    UNTRUSTED_PUBLIC_KEY,
    UNTRUSTED_SEED,
    encode_signed_part,
    encode_simulated,
)

AT = datetime(2026, 11, 1, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
MEASUREMENT = bytes(range(100, 132))
EVIDENCE = attest(REPORT_DATA, MEASUREMENT)
DEVELOPMENT = Policy(simulated=(SimulatedPolicy(measurements=(MEASUREMENT.hex(),)),))


def judge(body: bytes, policy: Policy = DEVELOPMENT, report_data: bytes = REPORT_DATA) -> Verdict:
    evidence = Evidence(kind=EvidenceKind.SIMULATED, body=body)
    return verify(evidence, policy, binding=Binding(report_data=report_data), at=AT)


def failed_checks(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failures]


def test_what_the_attester_makes_is_accepted_by_a_development_policy() -> None:
    verdict = judge(EVIDENCE)
    assert verdict.accepted, verdict.summary
    assert verdict.facts == {
        "simulated": True,
        "measurement": MEASUREMENT.hex(),
        "report_data": REPORT_DATA.hex(),
    }


def test_an_accepted_verdict_says_that_it_proves_nothing_about_hardware() -> None:
    notes = [check for check in judge(EVIDENCE).checks if check.outcome is Outcome.NOTE]
    assert [note.name for note in notes] == ["simulated.hardware"]
    assert "proves nothing about hardware" in notes[0].reason


def test_the_compiled_public_key_is_that_of_the_published_seed() -> None:
    derived = Ed25519PrivateKey.from_private_bytes(UNTRUSTED_SEED).public_key().public_bytes_raw()
    assert derived == UNTRUSTED_PUBLIC_KEY


def test_a_policy_without_a_table_for_it_refuses_it_before_parsing() -> None:
    verdict = judge(b"not even CBOR", Policy())
    assert failed_checks(verdict) == ["policy.kind"]


def test_a_policy_without_measurements_refuses_it() -> None:
    assert failed_checks(judge(EVIDENCE, Policy(simulated=(SimulatedPolicy(),)))) == ["simulated.measurement"]


def test_another_measurement_is_refused() -> None:
    assert failed_checks(judge(attest(REPORT_DATA, bytes(32)))) == ["simulated.measurement"]


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_every_byte_of_report_data_is_compared(position: int) -> None:
    other = bytearray(REPORT_DATA)
    other[position] ^= 1
    assert failed_checks(judge(EVIDENCE, report_data=bytes(other))) == ["simulated.binding"]


def test_a_binding_without_report_data_is_refused() -> None:
    evidence = Evidence(kind=EvidenceKind.SIMULATED, body=EVIDENCE)
    examination = examine_simulated(evidence, binding=Binding(user_data=b"claims"), at=AT)
    assert [check.name for check in examination.checks if check.outcome is Outcome.FAIL] == ["simulated.binding"]


def test_a_signature_by_another_key_is_refused() -> None:
    signed = encode_signed_part(REPORT_DATA, MEASUREMENT)
    verdict = judge(encode_simulated(signed, Ed25519PrivateKey.generate().sign(signed)))
    assert failed_checks(verdict) == ["simulated.signature"]


def test_every_flipped_byte_is_refused() -> None:
    for position in range(len(EVIDENCE)):
        mutated = bytearray(EVIDENCE)
        mutated[position] ^= 0x01
        assert not judge(bytes(mutated)).accepted, position


def test_it_is_refused_truncated_at_any_length_and_with_trailing_bytes() -> None:
    for size in range(len(EVIDENCE)):
        with pytest.raises(MalformedEvidenceError):
            parse_simulated(EVIDENCE[:size])
    with pytest.raises(MalformedEvidenceError, match="follow"):
        parse_simulated(EVIDENCE + b"\0")


def test_the_same_content_in_another_encoding_is_refused() -> None:
    signed = encode_signed_part(REPORT_DATA, MEASUREMENT)
    long_head = b"\x98\x02" + EVIDENCE[1:]
    with pytest.raises(MalformedEvidenceError, match="deterministic"):
        parse_simulated(long_head)
    floating_key = encode_simulated(signed.replace(b"\x01u", b"\xf9\x3c\x00u", 1), bytes(64))
    with pytest.raises(MalformedEvidenceError, match="deterministic"):
        parse_simulated(floating_key)


@pytest.mark.parametrize(
    "signed",
    [
        encode_cbor({1: "snp-report", 2: REPORT_DATA, 3: MEASUREMENT}),
        encode_cbor({1: FORMAT, 2: REPORT_DATA[:32], 3: MEASUREMENT}),
        encode_cbor({1: FORMAT, 2: REPORT_DATA, 3: MEASUREMENT.hex()}),
        encode_cbor({1: FORMAT, 2: REPORT_DATA}),
        encode_cbor({1: FORMAT, 2: REPORT_DATA, 3: MEASUREMENT, 4: 1}),
        encode_cbor([FORMAT, REPORT_DATA, MEASUREMENT]),
    ],
)
def test_other_members_of_the_signed_part_are_refused(signed: bytes) -> None:
    signature = Ed25519PrivateKey.from_private_bytes(UNTRUSTED_SEED).sign(signed)
    with pytest.raises(MalformedEvidenceError):
        parse_simulated(encode_simulated(signed, signature))


def test_another_format_is_refused_by_its_name() -> None:
    signed = encode_cbor({1: "wasmkeep-simulated-v2", 2: REPORT_DATA, 3: MEASUREMENT})
    with pytest.raises(UnsupportedEvidenceError, match="wasmkeep-simulated-v2"):
        parse_simulated(encode_simulated(signed, bytes(64)))


@pytest.mark.parametrize(("report_data", "measurement"), [(bytes(63), bytes(32)), (bytes(64), bytes(48))])
def test_the_attester_makes_no_evidence_over_other_sizes(report_data: bytes, measurement: bytes) -> None:
    with pytest.raises(ValueError, match="bytes, not"):
        attest(report_data, measurement)


def test_the_attester_imports_neither_cryptography_nor_cbor2_nor_a_verifier() -> None:
    code = (
        "import sys; from app_loader.attesters.simulated import attest; attest(bytes(64), bytes(32));"
        "print([m for m in sys.modules if m.split('.')[0] in ('cryptography', 'cbor2', 'keep_attestation')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("measurement", ["AB" * 32, "ab" * 31, "ab" * 48, "zz" * 32, "ab" * 32 + "\n"])
def test_a_policy_with_something_else_than_a_measurement_is_refused(measurement: str) -> None:
    with pytest.raises(ValueError, match=r"simulated\.measurements"):
        SimulatedPolicy(measurements=(measurement,))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: EVIDENCE[:60] + tail))
def test_nothing_but_our_own_errors_comes_out_of_arbitrary_bytes(data: bytes) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        parse_simulated(data)
    assert not judge(data).accepted
