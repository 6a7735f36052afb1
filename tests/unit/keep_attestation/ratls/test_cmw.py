"""Wrappers of RFC 9999: what keeps write is read back, and nothing else than the specification admits is read."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from typing import Any

import cbor2
import pytest
from asn1crypto import core
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.evidence import Endorsements
from keep_attestation.ratls.cmw import (
    Record,
    WrapperCollection,
    decode_cbor_wrapper,
    decode_extension,
    decode_json_wrapper,
)
from keep_attestation.ratls.collection import collection_from, decode_collection, decode_endorsements
from keep_protocol.cmw import Indicator, build_collection, cmw_extension, encode_endorsements
from keep_protocol.evidence import CLAIMS_MEDIA_TYPE, CMW_COLLECTION_TYPE, EvidenceKind, encode_cbor, encode_claims
from tests.unit.keep_attestation.ratls.makers import FakeKeep

KEEP = FakeKeep()
CLAIMS = encode_claims(KEEP.claims(kind=EvidenceKind.SNP))
ENDORSEMENTS = encode_endorsements(certificates=[b"vcek", b"ask"], crls=[b"crl"], collateral=b"{}")
COLLECTION = build_collection(EvidenceKind.SNP, b"report", CLAIMS, endorsements=ENDORSEMENTS, log=b"log")


def changed(**changes: Any) -> bytes:
    """The collection with members replaced, or removed by None."""
    members = cbor2.loads(COLLECTION)
    members.update(changes)
    return cbor2.dumps({label: member for label, member in members.items() if member is not None}, canonical=True)


def test_what_a_keep_writes_is_read_back() -> None:
    read = decode_collection(COLLECTION)
    assert (read.evidence.kind, read.evidence.body, read.evidence.log) == (EvidenceKind.SNP, b"report", b"log")
    assert read.evidence.endorsements == Endorsements(certificates=(b"vcek", b"ask"), crls=(b"crl",), collateral=b"{}")
    assert read.encoded_claims == CLAIMS
    assert read.claims.kind is EvidenceKind.SNP


def test_what_a_keep_writes_is_what_another_cbor_library_writes() -> None:
    assert cbor2.dumps(cbor2.loads(COLLECTION), canonical=True) == COLLECTION
    assert cbor2.loads(COLLECTION)["claims"] == [CLAIMS_MEDIA_TYPE, CLAIMS, 4]
    long_keys = {"a" * size: size for size in (1, 23, 24, 300)}
    assert encode_cbor(long_keys) == cbor2.dumps(long_keys, canonical=True)


def test_absent_parts_are_left_out() -> None:
    assert set(cbor2.loads(build_collection(EvidenceKind.SNP, b"", CLAIMS))) == {"__cmwc_t", "evidence", "claims"}
    assert encode_endorsements() == b"\xa0"
    assert decode_endorsements(b"\xa0") == Endorsements()


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 70_000])
def test_the_extension_is_a_der_octet_string(size: int) -> None:
    assert cmw_extension(bytes(size)) == core.OctetString(bytes(size)).dump()


def test_a_keep_writes_without_importing_cbor2_or_cryptography() -> None:
    code = (
        "import sys, keep_protocol.cmw;"
        "print([m for m in sys.modules if m.split('.')[0] in ('cryptography', 'cbor2', 'asn1crypto')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_json_choice_is_read_like_the_cbor_choice() -> None:
    members = {
        label: member if isinstance(member, str) else [member[0], base64url(member[1]), member[2]]
        for label, member in cbor2.loads(COLLECTION).items()
    }
    value = core.UTF8String(json.dumps(members)).dump()
    wrapper, _ = decode_extension(value)
    assert collection_from(wrapper) == decode_collection(COLLECTION)


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def test_records_have_a_media_type_or_a_content_format_and_perhaps_an_indicator() -> None:
    assert decode_cbor_wrapper(cbor2.dumps(["a/b", b"v"])) == Record("a/b", b"v", None)
    both = Indicator.REFERENCE_VALUES | Indicator.ENDORSEMENTS
    assert decode_cbor_wrapper(cbor2.dumps([30001, b"v", 3])) == Record(30001, b"v", both)


def test_collections_may_hold_collections() -> None:
    nested = decode_cbor_wrapper(cbor2.dumps({"cpu": {1: ["a/b", b"v"]}}))
    assert nested == WrapperCollection(None, {"cpu": WrapperCollection(None, {1: Record("a/b", b"v", None)})})


@pytest.mark.parametrize(
    "item",
    [
        [],
        ["a/b"],
        ["a/b", b"v", 4, 1],
        ["a/b", "text"],
        ["", b"v"],
        [True, b"v"],
        [-1, b"v"],
        [65536, b"v"],
        [None, b"v"],
        ["a/b", b"v", 0],
        ["a/b", b"v", -1],
        ["a/b", b"v", True],
        ["a/b", b"v", 32],
        ["a/b", b"v", 1 << 32],
        {},
        {"__cmwc_t": "tag:a"},
        {"__cmwc_t": 1, "a": ["a/b", b"v"]},
        {"a": {}},
        {"a": b"v"},
        {b"a": ["a/b", b"v"]},
        {True: ["a/b", b"v"]},
        {"a": {"a": {"a": {"a": {"a": ["a/b", b"v"]}}}}},
        {number: ["a/b", b"v"] for number in range(33)},
        b"v",
        1,
        None,
    ],
)
def test_other_shapes_are_refused(item: Any) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_cbor_wrapper(cbor2.dumps(item))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        '["a/b", "AA=="]',
        '["a/b", "A"]',
        '["a/b", "AB"]',
        '["a/b", "+/8"]',
        '["a/b", "ä"]',
        '["a/b", 1]',
        '["a/b", "AA", NaN]',
        '["a/b", "AA", 4.0]',
        '{"a": ["a/b", "AA"], "a": ["a/b", "AA"]}',
        '["a/b", "AA"] ',
        "[" * 100_000,
        '["a/b", "AA", ' + "9" * 5000 + "]",
    ],
)
def test_other_json_is_refused(text: str) -> None:
    if text.endswith(" "):
        assert isinstance(decode_json_wrapper(text), Record)  # white space is JSON, what follows it is not
        text += "]"
    with pytest.raises(MalformedEvidenceError):
        decode_json_wrapper(text)


def test_malformed_cbor_is_refused() -> None:
    # Row 29.
    record = cbor2.dumps(["a/b", b"v"])
    for data in (
        b"\xa2\x61a" + record + b"\x61a" + record,
        b"\x9f" + record[1:] + b"\xff",
        b"\x81" * 10_000,
        b"\x9b" + b"\xff" * 8,
        b"\xd8\x1c" + record,
        record + b"\0",
        b"\x82\x62\xff\xff\x40",
        b"",
    ):
        with pytest.raises(MalformedEvidenceError):
            decode_cbor_wrapper(data)


def test_records_in_the_form_of_a_tag_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedEvidenceError, match="tag"):
        decode_cbor_wrapper(cbor2.dumps(cbor2.CBORTag(1668576818, b"v")))


@pytest.mark.parametrize(
    "value", [b"", b"\x30\x00", b"\x04\x05ab", b"\x04\x80ab\0\0", b"\x0c\x01\xff", b"\x04\x01\x80\0"]
)
def test_an_extension_of_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_extension(value)


def test_an_extension_with_bytes_behind_the_choice_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_extension(cmw_extension(COLLECTION) + b"\0")


@pytest.mark.parametrize(
    "changes",
    [
        {"__cmwc_t": "tag:somebody.else,2026:x"},
        {"__cmwc_t": None},
        {"evidence": None},
        {"claims": None},
        {"another": ["a/b", b"", 4]},
        {"evidence": ["application/vnd.wasmkeep.abacus", b"", 4]},
        {"evidence": [30001, b"", 4]},
        {"evidence": [EvidenceKind.SNP.media_type, b""]},
        {"evidence": [EvidenceKind.SNP.media_type, b"", 2]},
        {"evidence": [EvidenceKind.SNP.media_type, b"", 6]},
        {"evidence": {"a": [EvidenceKind.SNP.media_type, b"", 4]}},
        {"claims": ["application/cbor", CLAIMS, 4]},
        {"claims": [CLAIMS_MEDIA_TYPE, CLAIMS + b"\0", 4]},
        {"endorsements": [EvidenceKind.TDX.endorsements_media_type, ENDORSEMENTS, 2]},
        {"endorsements": [EvidenceKind.SNP.endorsements_media_type, ENDORSEMENTS, 4]},
        {"log": [EvidenceKind.TDX.log_media_type, b"", 4]},
    ],
)
def test_other_collections_than_a_keeps_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_collection(changed(**changes))


def test_a_record_alone_is_no_collection_of_a_keep() -> None:
    with pytest.raises(MalformedEvidenceError, match="collection"):
        decode_collection(cbor2.dumps([CMW_COLLECTION_TYPE, b""]))


@pytest.mark.parametrize(
    "item",
    [
        [],
        {4: b""},
        {1.0: []},
        {True: []},
        {1: b""},
        {1: ["text"]},
        {1: [b""] * 33},
        {2: [1]},
        {3: "{}"},
    ],
)
def test_other_endorsements_are_refused(item: Any) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_endorsements(cbor2.dumps(item))


def test_a_collection_is_refused_truncated_at_every_length() -> None:
    for size in range(len(COLLECTION)):
        with pytest.raises(MalformedEvidenceError):
            decode_collection(COLLECTION[:size])


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, len(COLLECTION) - 1), st.binary(max_size=4)).map(
        lambda cut: COLLECTION[: cut[0]] + cut[1] + COLLECTION[cut[0] + 1 :]
    )
)
def test_nothing_but_our_own_errors_comes_out_of_arbitrary_bytes(data: bytes) -> None:
    for decode in (decode_collection, decode_cbor_wrapper, decode_extension, decode_endorsements):
        with contextlib.suppress(MalformedEvidenceError):
            decode(data)
    with contextlib.suppress(MalformedEvidenceError):
        decode_json_wrapper(data.decode("latin-1"))
