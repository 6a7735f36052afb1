"""Claims have one encoding: what a keep writes is read back, and nothing that differs from it in a byte is."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.claims import MAX_CLAIMS_SIZE, decode_claims
from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_protocol.evidence import ClaimKey, Claims, EvidenceKind, encode_claims, qualifying_data, report_data

CLAIMS = Claims(
    kind=EvidenceKind.SNP,
    backend="snp",
    keep="0123456789ab",
    spki_sha256=bytes(range(32)),
    spec_sha256=bytes(range(32, 64)),
    nonce=bytes(range(64, 96)),
    exporter=bytes(range(96, 128)),
    workload_sha256=bytes(range(128, 160)),
    issued_at=1_780_000_000,
)
_DIGESTS = st.binary(min_size=32, max_size=32)
_NAMES = st.text(min_size=1, max_size=24)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.builds(
        Claims,
        kind=st.sampled_from(EvidenceKind),
        backend=_NAMES,
        keep=_NAMES,
        spki_sha256=_DIGESTS,
        spec_sha256=_DIGESTS,
        workload_sha256=st.none() | _DIGESTS,
        configuration_sha256=st.none() | _DIGESTS,
        nonce=st.none() | st.binary(min_size=16, max_size=64),
        exporter=st.none() | _DIGESTS,
        issued_at=st.integers(0, 2**64 - 1),
    )
)
def test_what_a_keep_claims_is_what_a_verifier_reads(claims: Claims) -> None:
    assert decode_claims(encode_claims(claims)) == claims


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 4))
def test_changed_claims_are_refused_or_are_others(place: int, inserted: bytes, removed: int) -> None:
    encoded = encode_claims(CLAIMS)
    place %= len(encoded)
    changed = encoded[:place] + inserted + encoded[place + removed :]
    try:
        claims = decode_claims(changed)
    except MalformedEvidenceError:
        return
    assert (claims == CLAIMS) is (changed == encoded)
    assert encode_claims(claims) == changed


def entries(**changed: Any) -> dict[Any, Any]:
    """The claims as a map, with members of `ClaimKey` changed; `...` leaves one out."""
    members: dict[Any, Any] = cbor2.loads(encode_claims(CLAIMS))
    members |= {getattr(ClaimKey, name): value for name, value in changed.items()}
    return {key: value for key, value in members.items() if value is not ...}


def canonical(members: Any) -> bytes:
    return cbor2.dumps(members, canonical=True)


def test_the_encoding_is_core_deterministic_cbor() -> None:
    assert encode_claims(CLAIMS) == canonical(entries())


@pytest.mark.parametrize("size", range(0, len(encode_claims(CLAIMS)), 7))
def test_claims_that_were_cut_are_refused(size: int) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_claims(encode_claims(CLAIMS)[:size])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"PROFILE": "keep-evidence-v2"}, "profile 'keep-evidence-v2', not 'keep-evidence-v1'"),
        ({"PROFILE": ...}, "profile None"),
        ({"KIND": "sev"}, "unknown kind: 'sev'"),
        ({"KEY": [2, bytes(32)]}, "hash the key with algorithm 2"),
    ],
)
def test_other_profiles_kinds_and_hashes_are_unsupported_by_name(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedEvidenceError, match=reason):
        decode_claims(canonical(entries(**changed)))


def test_a_key_that_nobody_knows_is_refused() -> None:
    for key in (99, -1, "12", b"12", None):
        with pytest.raises(MalformedEvidenceError):
            decode_claims(canonical(entries() | {key: 1}))


@pytest.mark.parametrize(
    "changed",
    [
        {"KIND": 1},
        {"KIND": ...},
        {"KEY": ...},
        {"KEY": bytes(32)},
        {"KEY": [1, bytes(31)]},
        {"KEY": [1, bytes(33)]},
        {"KEY": [1, "a" * 32]},
        {"KEY": [1, bytes(32), 0]},
        {"KEY": [True, bytes(32)]},
        {"NONCE": bytes(15)},
        {"NONCE": bytes(65)},
        {"NONCE": None},
        {"EXPORTER": bytes(31)},
        {"EXPORTER": "a" * 32},
        {"KEEP": ...},
        {"KEEP": ""},
        {"KEEP": "k" * 65},
        {"KEEP": b"keep"},
        {"WORKLOAD": b""},
        {"SPEC": ...},
        {"SPEC": bytes(31)},
        {"SPEC": bytes(33)},
        {"ISSUED_AT": ...},
        {"ISSUED_AT": -1},
        {"ISSUED_AT": 1.5},
        {"ISSUED_AT": True},
        {"ISSUED_AT": "now"},
        {"BACKEND": ...},
        {"BACKEND": "b" * 65},
    ],
    ids=str,
)
def test_a_member_that_is_missing_or_of_another_type_or_size_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_claims(canonical(entries(**changed)))


def test_another_encoding_of_the_same_claims_is_refused() -> None:
    encoded, members = encode_claims(CLAIMS), entries()
    reordered = cbor2.dumps(dict(reversed(members.items())))
    long_key = encoded.replace(bytes([ClaimKey.BACKEND, 0x63]), bytes([0x18, ClaimKey.BACKEND, 0x63]))
    assert cbor2.loads(reordered) == cbor2.loads(long_key) == members
    for other in (reordered, long_key):
        assert other != encoded
        with pytest.raises(MalformedEvidenceError, match="claims are not in deterministic CBOR"):
            decode_claims(other)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x01", b"\xf6", canonical([1, 2])])
def test_what_is_no_map_is_no_claims(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_claims(data)


def test_claims_are_as_large_as_every_carrier_holds_at_most() -> None:
    with pytest.raises(MalformedEvidenceError, match=f"at most {MAX_CLAIMS_SIZE} are read"):
        decode_claims(bytes(MAX_CLAIMS_SIZE + 1))
    largest = msgspec.structs.replace(CLAIMS, keep="k" * 64, backend="b" * 64, nonce=bytes(64), issued_at=2**64 - 1)
    assert decode_claims(encode_claims(largest)) == largest


def test_what_hardware_signs_depends_on_every_claim() -> None:
    fields: dict[str, Any] = {
        "kind": EvidenceKind.TDX,
        "backend": "tdx",
        "keep": "0123456789ac",
        "spki_sha256": bytes(32),
        "spec_sha256": bytes(32),
        "nonce": None,
        "exporter": None,
        "workload_sha256": None,
        "configuration_sha256": bytes(32),
        "issued_at": 0,
    }
    assert set(fields) == set(Claims.__struct_fields__)
    others = [encode_claims(msgspec.structs.replace(CLAIMS, **{name: value})) for name, value in fields.items()]
    for digest, size in ((report_data, 64), (qualifying_data, 32)):
        digests = {digest(encoded) for encoded in (encode_claims(CLAIMS), *others)}
        assert len(digests) == len(fields) + 1
        assert {len(each) for each in digests} == {size}
