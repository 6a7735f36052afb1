"""ASN.1 as strictly as it can be read when indefinite lengths are to be understood."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app_loader.key_release.ber import MAX_DEPTH, MAX_SIZE, Element, context, members, octets, parse_ber
from app_loader.key_release.errors import MalformedReplyError


def test_definite_and_indefinite_lengths_give_the_same_elements() -> None:
    definite = parse_ber(bytes.fromhex("3006 0201 02 0401 ff".replace(" ", "")))
    indefinite = parse_ber(bytes.fromhex("3080 0201 02 0401 ff 0000".replace(" ", "")))
    assert definite == indefinite == Element(0x30, parts=(Element(0x02, b"\x02"), Element(0x04, b"\xff")))


def test_long_lengths_are_read() -> None:
    assert parse_ber(b"\x04\x82\x01\x00" + bytes(256)) == Element(0x04, bytes(256))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("", "cut short"),
        ("30", "cut short"),
        ("3003020102ff", "after the end"),
        ("300402", "cut short"),
        ("30020201", "cut short"),
        ("3080020102", "cut short"),
        ("308002010200", "cut short"),
        ("0480000000", "no length"),
        ("048101ff", "not minimal"),
        ("0482000100", "not minimal"),
        ("04850000000001ff", "too many octets"),
        ("1f8101", "more than one octet"),
    ],
)
def test_other_forms_are_refused_by_what_is_wrong_with_them(data: str, named: str) -> None:
    with pytest.raises(MalformedReplyError, match=named):
        parse_ber(bytes.fromhex(data))


def test_neither_depth_nor_size_is_unbounded() -> None:
    nested = b"\x30\x80" * MAX_DEPTH + b"\x05\x00" + bytes(2 * MAX_DEPTH)
    assert parse_ber(nested).is_constructed
    with pytest.raises(MalformedReplyError, match="too deeply"):
        parse_ber(b"\x30\x80" + nested + bytes(2))
    with pytest.raises(MalformedReplyError, match="at most"):
        parse_ber(bytes(MAX_SIZE + 1))


def test_octet_strings_come_whole_or_in_pieces() -> None:
    assert octets(parse_ber(bytes.fromhex("0402abcd")), "it") == b"\xab\xcd"
    assert octets(parse_ber(bytes.fromhex("24800401ab0401cd0000")), "it") == b"\xab\xcd"
    assert octets(parse_ber(bytes.fromhex("a0800401ab0401cd0000")), "it", implicit=0) == b"\xab\xcd"
    assert octets(parse_ber(bytes.fromhex("8002abcd")), "it", implicit=0) == b"\xab\xcd"
    for other in ("0201ab", "24800401ab0000", "8101ab", "a0800201ab0000", "a1800401ab0000"):
        with pytest.raises(MalformedReplyError):
            octets(parse_ber(bytes.fromhex(other)), "it", implicit=0)


def test_an_element_of_another_tag_has_no_members() -> None:
    assert members(parse_ber(b"\x31\x00"), "it", tag=0x31) == ()
    with pytest.raises(MalformedReplyError, match="0x31"):
        members(parse_ber(b"\x31\x00"), "it")
    assert context(1, constructed=True) == 0xA1


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_nothing_but_our_own_error_comes_out_of_arbitrary_bytes(data: bytes) -> None:
    with contextlib.suppress(MalformedReplyError):
        parse_ber(data)
