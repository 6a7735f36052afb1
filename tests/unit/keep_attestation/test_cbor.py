"""CBOR from hostile hands: one item, without anything that could mean two things or cost much."""

from __future__ import annotations

import contextlib
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keep_attestation.cbor import decode_cbor, strip_tag
from keep_attestation.errors import MalformedEvidenceError

_LEAVES = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20)
_ITEMS = st.recursive(
    _LEAVES,
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.integers(0, 99) | st.text(max_size=5), items),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(_ITEMS)
def test_an_item_of_plain_types_is_decoded(item: Any) -> None:
    assert decode_cbor(cbor2.dumps(item), "item") == item


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_our_error(data: bytes, allow_indefinite: bool) -> None:
    with contextlib.suppress(MalformedEvidenceError):
        decode_cbor(data, "item", allow_indefinite=allow_indefinite)


@pytest.mark.parametrize("data", [b"\xa2\x01\x02\x01\x03", b"\xa2aa\x01aa\x01", b"\x81\xa2\x01\x02\x01\x03"])
def test_a_key_may_not_come_twice(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError, match="item: no well-formed CBOR"):
        decode_cbor(data, "item")


@pytest.mark.parametrize(("depth", "accepted"), [(15, True), (17, False), (100_000, False)])
def test_nesting_is_bounded(depth: int, accepted: bool) -> None:
    data = b"\x81" * depth + b"\x00"
    if accepted:
        assert decode_cbor(data, "item") is not None
    else:
        with pytest.raises(MalformedEvidenceError):
            decode_cbor(data, "item")


@pytest.mark.parametrize("tag", [0, 1, 2, 3, 4, 5, 18, 24, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 1004, 55799])
def test_every_tag_is_refused_by_its_number(tag: int) -> None:
    contents: tuple[Any, ...] = (0, b"\x01", "2026-01-01", [1, 2], {})
    for content in contents:
        with pytest.raises(MalformedEvidenceError, match=rf"tag {tag} has no place here|no well-formed CBOR"):
            decode_cbor(cbor2.dumps(cbor2.CBORTag(tag, content)), "item")


def test_a_tag_that_would_cost_much_is_refused_before_it_does() -> None:
    # 10 to the power of 10^18, as a decimal fraction of a few bytes.
    with pytest.raises(MalformedEvidenceError, match="tag 4 has no place here"):
        decode_cbor(b"\xc4\x82\x1b\x0d\xe0\xb6\xb3\xa7\x64\x00\x00\x01", "item")


@pytest.mark.parametrize("trailing", [b"\x00", b"\xf6", b"junk", bytes(5000)])
def test_bytes_after_the_item_are_refused(trailing: bytes) -> None:
    with pytest.raises(MalformedEvidenceError, match=f"item: {len(trailing)} bytes follow the CBOR item"):
        decode_cbor(b"\x81\x01" + trailing, "item")


@pytest.mark.parametrize(
    ("data", "item"),
    [(b"\x9f\x01\xff", [1]), (b"\xbf\x01\x02\xff", {1: 2}), (b"\x5f\x41a\xff", b"a"), (b"\x7f\x61a\xff", "a")],
    ids=["array", "map", "bytes", "text"],
)
def test_indefinite_lengths_are_decoded_only_where_they_are_allowed(data: bytes, item: Any) -> None:
    assert decode_cbor(data, "item", allow_indefinite=True) == item
    with pytest.raises(MalformedEvidenceError):
        decode_cbor(data, "item")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x58", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x9b" + b"\x7f" * 8, b"\x61\xff", b"\xff", b"\x1c"],
)
def test_lengths_that_lie_and_text_that_is_none_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        decode_cbor(data, "item")


@pytest.mark.parametrize(
    ("data", "tag", "rest"),
    [
        (b"\xd2\x84", 18, b"\x84"),
        (b"\xd8\x12\x84", 18, b"\x84"),
        (b"\x84", 18, None),
        (b"\xd1\x84", 18, None),
        (b"\xd9\xea\x60\x82", 60000, b"\x82"),
        (b"\xd8\x3d\xa0", 61, b"\xa0"),
        (b"", 18, None),
    ],
)
def test_a_tag_is_stripped_where_it_may_stand(data: bytes, tag: int, rest: bytes | None) -> None:
    assert strip_tag(data, tag) == rest
