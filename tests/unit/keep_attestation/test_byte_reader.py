"""Fixed layouts are read in their byte order, and never past their end."""

from __future__ import annotations

from typing import Literal

import pytest

from keep_attestation.byte_reader import ByteReader
from keep_attestation.errors import MalformedEvidenceError


@pytest.mark.parametrize(("order", "expected"), [("little", 0x0201), ("big", 0x0102)])
def test_integers_are_read_in_the_order_of_the_layout(order: Literal["little", "big"], expected: int) -> None:
    reader = ByteReader(b"\x01\x02\x03", "layout", order)
    assert reader.integer(2) == expected
    assert (reader.offset, reader.remaining) == (2, 1)


def test_bytes_are_taken_one_after_the_other_up_to_the_end() -> None:
    reader = ByteReader(b"abcdef", "layout", "big")
    assert (reader.take(2), reader.take(0), reader.take(4)) == (b"ab", b"", b"cdef")
    reader.end()


def test_more_bytes_than_are_left_are_refused_with_name_and_offset() -> None:
    reader = ByteReader(b"abc", "quote", "big")
    reader.take(2)
    with pytest.raises(MalformedEvidenceError, match="quote: 2 bytes expected at offset 2, 1 are left"):
        reader.take(2)
    with pytest.raises(MalformedEvidenceError):
        reader.integer(4)
    assert reader.take(1) == b"c"


def test_a_length_is_read_before_what_it_counts() -> None:
    reader = ByteReader(b"\x00\x03abcd", "key", "big")
    assert reader.sized(2) == b"abc"
    with pytest.raises(MalformedEvidenceError, match="key: 1 bytes follow its end at offset 5"):
        reader.end()


def test_a_length_beyond_the_end_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(MalformedEvidenceError, match="18446744073709551615 bytes expected at offset 8, 1 are left"):
        ByteReader(b"\xff" * 8 + b"a", "log", "little").sized(8)
