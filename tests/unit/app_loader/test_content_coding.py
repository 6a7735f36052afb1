"""Tests of `app_loader.content_coding`: compressed uploads, honest and hostile."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from app_loader.content_coding import coding_of, decoded
from keep_client import Source
from keep_protocol import libzstd
from keep_protocol.errors import ErrorCode, RefusalError
from tests.unit.app_loader.asking import ask, problem, request
from tests.unit.app_loader.execution_harness import RETURNS, stream, wat

MODULE = wat(RETURNS)
NOISE = os.urandom(600_000)
CODINGS = ("gzip", "zstd")


def compressed(content: bytes, coding: str) -> bytes:
    return Source.from_bytes(content).compressed(coding).open().read()


def decode(body: AsyncIterator[bytes], coding: str, *, limit: int = 10**9, digest: bytes | None = None) -> bytes:
    async def all_of_it() -> bytes:
        return b"".join([part async for part in decoded(body, coding, limit=limit, expected_digest=digest, size=None)])

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("content", [b"", b"x", MODULE, NOISE, bytes(5_000_000)], ids=len)
def test_what_was_compressed_comes_back_in_whatever_pieces_it_was_sent(coding: str, content: bytes) -> None:
    body = compressed(content, coding)
    assert decode(stream(body), coding, digest=hashlib.sha256(body).digest()) == content
    size = max(1, len(body) // 997)
    assert decode(stream(*(body[at : at + size] for at in range(0, len(body), size))), coding) == content


@pytest.mark.parametrize("coding", CODINGS)
def test_several_streams_in_a_row_are_one_body(coding: str) -> None:
    assert decode(stream(compressed(b"one ", coding) + compressed(b"two", coding)), coding) == b"one two"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_a_stream_that_is_cut_off_is_no_body(coding: str, cut: int) -> None:
    with pytest.raises(RefusalError) as refused:
        decode(stream(compressed(NOISE, coding)[:cut]), coding)
    assert refused.value.code == ErrorCode.BODY_INCOMPLETE


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("wrong", [b"\0asm\1\0\0\0", b"plain text", bytes(64)])
def test_what_is_not_coded_as_it_says_is_refused(coding: str, wrong: bytes) -> None:
    with pytest.raises(RefusalError) as refused:
        decode(stream(wrong), coding)
    assert (refused.value.code, refused.value.field) == (ErrorCode.WORKLOAD_INVALID, "Content-Encoding")
    with pytest.raises(RefusalError):
        decode(stream(compressed(b"good", coding) + wrong), coding)


@pytest.mark.parametrize("coding", CODINGS)
def test_the_digest_is_of_the_bytes_that_were_sent(coding: str) -> None:
    with pytest.raises(RefusalError) as refused:
        decode(stream(compressed(MODULE, coding)), coding, digest=hashlib.sha256(MODULE).digest())
    assert refused.value.code == ErrorCode.WORKLOAD_DIGEST_MISMATCH


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_costs_no_memory_and_is_read_no_further_than_its_reader_wants(coding: str) -> None:
    bomb = compressed(bytes(300_000_000), coding)

    async def first_megabyte() -> int:
        taken = 0
        content = decoded(stream(bomb), coding, limit=10**9, expected_digest=None, size=None)
        async for part in content:
            taken += len(part)
            if taken > 1_000_000:
                break
        await content.aclose()  # type: ignore[attr-defined]
        return taken

    tracemalloc.start()
    try:
        assert asyncio.run(first_megabyte()) < 2_000_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_an_endless_row_of_empty_members_is_too_much_as_it_is_sent() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield gzip.compress(b"")

    with pytest.raises(RefusalError) as refused:
        decode(endless(), "gzip", limit=100_000)
    assert refused.value.code == ErrorCode.BODY_TOO_LARGE


def test_a_frame_that_wants_a_larger_window_than_rfc_9659_allows_is_refused() -> None:
    # Frame header of RFC 8878, section 3.1.1.1: no single segment, window of 2^(10 + 17) bytes.
    with pytest.raises(RefusalError) as refused:
        decode(stream(b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + bytes(100)), "zstd")
    assert refused.value.code == ErrorCode.WORKLOAD_INVALID


def test_codings_have_names_without_case_and_others_are_refused_with_those_that_there_are() -> None:
    assert [coding_of(name) for name in (None, "identity", "GZIP", "x-gzip", "zstd")] == [
        None,
        None,
        "gzip",
        "x-gzip",
        "zstd",
    ]
    for name in ("br", "deflate", "gzip, gzip", "zstd;q=1"):
        with pytest.raises(RefusalError, match="gzip, zstd") as refused:
            coding_of(name)
        assert refused.value.code == ErrorCode.MEDIA_TYPE_UNSUPPORTED


def test_a_system_without_libzstd_says_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libzstd, "available", lambda: False)
    with pytest.raises(RefusalError, match="gzip") as refused:
        coding_of("zstd")
    assert refused.value.code == ErrorCode.MEDIA_TYPE_UNSUPPORTED


def test_routes_that_store_bytes_as_they_come_take_none_that_are_coded() -> None:
    refused = ask(request("PUT", "/v1/files/input/a", b"x", {"content-encoding": "gzip"}))
    assert (refused.status, problem(refused).code) == (415, "media-type-unsupported")
    assert refused.headers["accept-encoding"] == "identity"
