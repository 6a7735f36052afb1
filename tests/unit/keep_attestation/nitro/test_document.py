"""Whether documents are read strictly: one layout, typed and bounded members, nothing after the end."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.errors import MalformedEvidenceError, UnsupportedEvidenceError
from keep_attestation.nitro.document import parse_document
from tests.unit.keep_attestation.nitro.forge import ES384, Module

MODULE = Module()


def test_a_tagged_document_reads_as_an_untagged_one() -> None:
    document = MODULE.document()
    assert parse_document(b"\xd2" + document) == parse_document(document)


def test_a_payload_of_indefinite_length_is_read_and_an_outer_array_of_indefinite_length_is_refused() -> None:
    definite = cbor2.dumps(MODULE.payload())
    indefinite = b"\xbf" + definite[1:] + b"\xff"
    assert parse_document(MODULE.sign(indefinite)).pcrs == parse_document(MODULE.sign(definite)).pcrs
    document = MODULE.document()
    with pytest.raises(MalformedEvidenceError):
        parse_document(b"\x9f" + document[1:] + b"\xff")


def test_the_signed_bytes_are_the_sig_structure_of_rfc_9052() -> None:
    document = parse_document(MODULE.document())
    assert document.signed == cbor2.dumps(["Signature1", ES384, b"", document.payload])


@pytest.mark.parametrize(
    "changes",
    [
        {"module_id": ""},
        {"module_id": 1},
        {"module_id": "i-1\n"},
        {"module_id": ...},
        {"digest": "SHA256"},
        {"digest": ...},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": True},
        {"timestamp": 1.5},
        {"timestamp": 2**63},
        {"timestamp": ...},
        {"pcrs": {}},
        {"pcrs": {1: bytes(48)}},
        {"pcrs": {0: bytes(47)}},
        {"pcrs": {0: "text"}},
        {"pcrs": {0: bytes(48), 32: bytes(48)}},
        {"pcrs": {False: bytes(48)}},
        {"pcrs": {"0": bytes(48)}},
        {"pcrs": [bytes(48)]},
        {"certificate": b""},
        {"certificate": None},
        {"certificate": bytes(1025)},
        {"cabundle": []},
        {"cabundle": [b""]},
        {"cabundle": [b"x"] * 9},
        {"cabundle": b"x"},
        {"public_key": bytes(1025)},
        {"public_key": "text"},
        {"user_data": bytes(513)},
        {"nonce": bytes(513)},
        {"nonce": 7},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_member_of_another_type_or_size_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_document(MODULE.document(**changes))


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_optional_members_may_be_null_or_absent(name: str) -> None:
    for value in (None, ...):
        assert getattr(parse_document(MODULE.document(**{name: value})), name) is None


def test_another_algorithm_is_refused_by_its_header() -> None:
    payload = cbor2.dumps(MODULE.payload())
    for protected in (b"\xa1\x01\x26", b"\xa1\x01\x38\x23", b"", b"\xa0", b"\xa2\x01\x38\x22\x04\x40"):
        with pytest.raises(UnsupportedEvidenceError, match="ES384 alone"):
            parse_document(MODULE.sign(payload, protected=protected))


def test_an_unprotected_header_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="unprotected"):
        parse_document(MODULE.sign(cbor2.dumps(MODULE.payload()), unprotected={4: b"kid"}))


def test_duplicate_members_are_refused() -> None:
    payload = cbor2.dumps(MODULE.payload())
    doubled = bytes([payload[0] + 1]) + payload[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"other")
    with pytest.raises(MalformedEvidenceError):
        parse_document(MODULE.sign(doubled))


def test_bytes_after_the_document_or_the_payload_are_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="follow"):
        parse_document(MODULE.document() + b"\x00")
    with pytest.raises(MalformedEvidenceError, match="follow"):
        parse_document(MODULE.sign(cbor2.dumps(MODULE.payload()) + b"\x00"))


def test_a_document_cut_at_any_length_is_refused() -> None:
    document = MODULE.document()
    for length in range(0, len(document), 7):
        with pytest.raises(MalformedEvidenceError):
            parse_document(document[:length])


def test_a_document_larger_than_a_module_can_answer_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError, match="at most"):
        parse_document(bytes(16 * 1024 + 1))


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_whatever_comes_nothing_but_malformed_evidence_is_raised(data: st.DataObject) -> None:
    keys = st.one_of(st.integers(-2, 40), st.sampled_from(sorted(MODULE.payload())))
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.binary(max_size=60)
    )
    values = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner), st.dictionaries(keys, inner)), max_leaves=6)
    raw = data.draw(
        st.one_of(
            st.binary(max_size=80),
            st.dictionaries(keys, values).map(lambda item: MODULE.sign(cbor2.dumps(item))),
            st.tuples(st.sampled_from(sorted(MODULE.payload())), values).map(
                lambda pair: MODULE.document(**{pair[0]: pair[1]})
            ),
        )
    )
    try:
        parse_document(raw)
    except MalformedEvidenceError:
        return
