"""Envelopes: nothing of them can be changed, cut or swapped, and nothing but our own errors comes out."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app_loader.sealing.envelope import MAGIC, Label, parse, seal, unseal
from app_loader.sealing.errors import MalformedEnvelopeError, SealingError, UnknownVersionError, UnsealError
from keep_protocol.sealing_api import CounterSource, KeyKind, Selector

ROOT = bytes(range(32))
LABEL = Label(KeyKind.HOST, "0" * 32, (Selector.KEEP,), "db-key", 7, "2026-01-02T03:04:05.678Z")
DATA = b"the data that was sealed"


def opened(sealed: bytes, root: bytes = ROOT) -> bytes:
    return unseal(root, parse(sealed))


def split(sealed: bytes) -> tuple[bytes, bytes]:
    """The header's JSON and the ciphertext."""
    size = int.from_bytes(sealed[4:8], "big")
    return sealed[8 : 8 + size], sealed[8 + size :]


def joined(header: bytes, ciphertext: bytes) -> bytes:
    return MAGIC + len(header).to_bytes(4, "big") + header + ciphertext


def changed(sealed: bytes, **fields: object) -> bytes:
    """The same envelope with another header, in canonical form."""
    header, ciphertext = split(sealed)
    return joined(msgspec.json.encode(json.loads(header) | fields, order="sorted"), ciphertext)


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_is_sealed_comes_out_again_with_what_is_written_on_it(size: int) -> None:
    envelope = parse(seal(ROOT, bytes(size), LABEL))
    assert envelope.label == LABEL
    assert unseal(ROOT, envelope) == bytes(size)


def test_the_header_is_canonical_json_as_documented() -> None:
    header, _ = split(seal(ROOT, DATA, LABEL))
    fields = json.loads(header)
    assert (
        list(fields)
        == sorted(fields)
        == [*("counter", "created", "key_id", "kind", "nonce", "purpose", "salt", "selectors", "v")]
    )
    assert (fields["v"], fields["kind"], fields["purpose"], fields["counter"]) == (1, "host", "db-key", 7)
    assert b" " not in header


@pytest.mark.parametrize(
    ("counter", "counted_by"), [(None, CounterSource.TPM), (7, CounterSource.OWNER), (None, CounterSource.OWNER)]
)
def test_only_a_counter_of_a_machine_is_said_to_be_one(counter: int | None, counted_by: CounterSource) -> None:
    label = dataclasses.replace(LABEL, counter=counter, counted_by_machine=counted_by)
    with pytest.raises(MalformedEnvelopeError, match="counted_by"):
        parse(seal(ROOT, DATA, label))


def test_no_two_envelopes_are_alike() -> None:
    sealed = {seal(ROOT, DATA, LABEL) for _ in range(50)}
    assert len({split(each)[1] for each in sealed}) == 50


def test_every_flipped_bit_is_noticed() -> None:
    sealed = seal(ROOT, DATA, LABEL)
    for index in range(len(sealed)):
        for bit in range(8):
            forged = bytearray(sealed)
            forged[index] ^= 1 << bit
            with pytest.raises(SealingError):
                opened(bytes(forged))


def test_truncation_at_every_length_and_trailing_bytes_are_noticed() -> None:
    sealed = seal(ROOT, DATA, LABEL)
    for size in range(len(sealed)):
        with pytest.raises(SealingError):
            opened(sealed[:size])
    with pytest.raises(UnsealError):
        opened(sealed + b"\0")


def test_headers_cannot_be_swapped() -> None:
    first, second = split(seal(ROOT, DATA, LABEL)), split(seal(ROOT, b"other data", LABEL))
    with pytest.raises(UnsealError):
        opened(joined(first[0], second[1]))


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "another"},
        {"counter": 8},
        {"counter": None},
        {"created": "2027-01-02T03:04:05.678Z"},
        {"key_id": "1" * 32},
        {"kind": "snp"},
        {"selectors": ["chip", "keep"]},
    ],
)
def test_what_is_written_on_an_envelope_cannot_be_changed(fields: dict[str, object]) -> None:
    with pytest.raises(UnsealError):
        opened(changed(seal(ROOT, DATA, LABEL), **fields))


def test_another_root_key_opens_nothing() -> None:
    with pytest.raises(UnsealError, match="keep"):
        opened(seal(ROOT, DATA, LABEL), bytes(32))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"v": 2}, "version 2"),
        ({"v": 0}, "version 0"),
        ({"kind": "sgx"}, "kind of key 'sgx'"),
        ({"selectors": ["weather"]}, "selector 'weather'"),
        ({"selectors": []}, "selectors"),
        ({"selectors": ["keep", "keep"]}, "selectors"),
        ({"selectors": ["keep", "chip"]}, "selectors"),
        ({"key_id": "0" * 31}, "key_id"),
        ({"key_id": "A" * 32}, "key_id"),
        ({"salt": ""}, "salt"),
        ({"nonce": "AAAA"}, "nonce"),
        ({"nonce": "AAAAAAAAAAAAAAA="}, "nonce"),
        ({"nonce": "AAAAAAAAAAAA AAAA"}, "nonce"),
        ({"counter": -1}, "counter"),
        ({"counter": 2**53}, "counter"),
        ({"counter": 1.0}, "counter"),
        ({"counter": True}, "counter"),
        ({"created": "yesterday"}, "created"),
        ({"purpose": ""}, "purpose"),
        ({"purpose": "a b"}, "purpose"),
        ({"more": 1}, "more"),
    ],
)
def test_a_header_that_nobody_here_writes_is_refused_by_name(fields: dict[str, object], words: str) -> None:
    with pytest.raises(MalformedEnvelopeError, match=words):
        parse(changed(seal(ROOT, DATA, LABEL), **fields))


def test_an_unknown_version_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(UnknownVersionError, match="version 9"):
        parse(joined(b'{"v":9,"whatever":[]}', bytes(16)))


@pytest.mark.parametrize("form", [lambda text: text.replace(b",", b", ", 1), lambda text: text + b" "])
def test_another_way_to_write_the_same_header_is_refused(form: object) -> None:
    header, ciphertext = split(seal(ROOT, DATA, LABEL))
    assert callable(form)
    with pytest.raises(MalformedEnvelopeError, match="canonical"):
        parse(joined(form(header), ciphertext))


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"KSE1",
        b"KSE2" + bytes(100),
        b"KSE1" + b"\xff" * 4 + bytes(100),
        joined(b"", bytes(16)),
        joined(b"[]", bytes(16)),
        joined(b"[" * 2000, bytes(16)),
        joined(b'{"v":"1"}', bytes(16)),
        joined(b'{"v":1,"kind":"\xff"}', bytes(16)),
        joined(b'{"v":1}', bytes(16)),
        joined(b" " * 2049, bytes(16)),
    ],
)
def test_what_is_no_envelope_is_refused(sealed: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        parse(sealed)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.data())
def test_whatever_comes_only_our_own_errors_come_out(data: st.DataObject) -> None:
    sealed = seal(ROOT, DATA, LABEL)
    header, ciphertext = split(sealed)
    kind = data.draw(st.sampled_from(["bytes", "header", "json", "splice"]))
    if kind == "bytes":
        forged = MAGIC + data.draw(st.binary(max_size=300))
    elif kind == "header":
        forged = joined(data.draw(st.binary(max_size=300)), ciphertext)
    elif kind == "json":
        values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.lists(st.text())
        field = data.draw(st.sampled_from(sorted(json.loads(header))))
        forged = joined(json.dumps(json.loads(header) | {field: data.draw(values)}).encode(), ciphertext)
    else:
        start, end = sorted((data.draw(st.integers(0, len(sealed))), data.draw(st.integers(0, len(sealed)))))
        forged = sealed[:start] + data.draw(st.binary(max_size=20)) + sealed[end:]
    if forged == sealed:
        return
    with pytest.raises(SealingError):
        opened(forged)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=2000),
    purpose=st.from_regex(r"\A[A-Za-z0-9](?:[A-Za-z0-9_./:-]{0,60}[A-Za-z0-9])?\Z"),
    counter=st.none() | st.integers(0, 2**53 - 1),
    selectors=st.sets(st.sampled_from(Selector), min_size=1),
    kind=st.sampled_from(KeyKind),
    by_machine=st.booleans(),
)
def test_whatever_is_sealed_comes_out_again(
    data: bytes, purpose: str, counter: int | None, selectors: set[Selector], kind: KeyKind, by_machine: bool
) -> None:
    counted_by = CounterSource.TPM if by_machine and counter is not None else None
    label = Label(kind, "f" * 32, tuple(sorted(selectors)), purpose, counter, LABEL.created, counted_by)
    envelope = parse(seal(ROOT, data, label))
    assert (envelope.label, unseal(ROOT, envelope)) == (label, data)
