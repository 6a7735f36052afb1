"""Secrets in the server's memory: replaced, expired and removed ones are overwritten."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import TypeVar

import pytest

from app_loader.secret_store import SecretStore
from keep_protocol.errors import ErrorCode
from keep_protocol.secret_api import MAX_SECRET, MAX_SECRETS
from tests.unit.app_loader.execution_harness import PATIENCE, refused

T = TypeVar("T")


class Clock:
    """Seconds as a test wants them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def in_loop(scenario: Callable[[], T]) -> T:
    async def play() -> T:
        return scenario()

    return asyncio.run(play())


def test_a_secret_is_kept_under_its_name_until_it_is_removed() -> None:
    store = SecretStore()
    info, created = store.put("db", bytearray(b"swordfish"))
    assert (info.name, info.size, info.expires_at, created) == ("db", 9, None, True)
    assert store.get("db") == b"swordfish"
    assert store.list() == (info,)
    store.remove("db")
    assert store.list() == ()
    with refused(ErrorCode.SECRET_NOT_FOUND):
        store.get("db")
    with refused(ErrorCode.SECRET_NOT_FOUND):
        store.remove("db")


def test_what_is_removed_replaced_or_left_is_overwritten() -> None:
    store = SecretStore()
    removed, replaced, left = bytearray(b"one"), bytearray(b"two"), bytearray(b"three")
    store.put("a", removed)
    store.remove("a")
    store.put("b", replaced)
    _, created = store.put("b", bytearray(b"new"))
    store.put("c", left)
    assert not created
    assert store.get("b") == b"new"
    store.close()
    assert [bytes(value) for value in (removed, replaced, left)] == [bytes(3), bytes(3), bytes(5)]
    assert store.list() == ()


def test_a_secret_expires_when_its_time_is_over() -> None:
    clock, value = Clock(), bytearray(b"soon gone")
    store = SecretStore(clock)

    def scenario() -> None:
        info, _ = store.put("brief", value, 60)
        assert info.expires_at is not None
        assert info.expires_at > info.stored_at
        clock.now += 59.9
        assert store.get("brief") == b"soon gone"
        clock.now += 0.1
        assert store.list() == ()
        with refused(ErrorCode.SECRET_NOT_FOUND):
            store.get("brief")

    in_loop(scenario)
    assert value == bytes(9)


def test_an_expired_secret_is_overwritten_though_nobody_asks_for_it() -> None:
    value = bytearray(b"soon gone")

    async def scenario() -> None:
        SecretStore().put("brief", value, 0.001)
        async with asyncio.timeout(PATIENCE):
            while any(value):  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(scenario())


def test_the_time_of_a_replaced_secret_does_not_end_its_successor() -> None:
    async def scenario() -> bytes:
        store = SecretStore()
        store.put("name", bytearray(b"old"), 0.001)
        store.put("name", bytearray(b"new"))
        witness = bytearray(b"x")
        store.put("witness", witness, 0.002)
        async with asyncio.timeout(PATIENCE):
            while any(witness):  # noqa: ASYNC110
                await asyncio.sleep(0)
        return bytes(store.get("name"))

    assert asyncio.run(scenario()) == b"new"


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a-", "a/b", "a b", "ä", "a" * 64, "a\n", "A=1"])
def test_a_name_that_is_none_is_refused_and_its_value_overwritten(name: str) -> None:
    value = bytearray(b"value")
    with refused(ErrorCode.NAME_INVALID):
        SecretStore().put(name, value)
    assert value == bytes(5)


def test_a_secret_beyond_the_limits_is_refused_and_overwritten() -> None:
    store = SecretStore()
    store.put("large", bytearray(MAX_SECRET))
    for index in range(MAX_SECRETS - 1):
        store.put(f"s{index}", bytearray(b"x"))
    many, large = bytearray(b"one too many"), bytearray(b"x" * (MAX_SECRET + 1))
    with refused(ErrorCode.LIMIT_EXCEEDED):
        store.put("another", many)
    with refused(ErrorCode.BODY_TOO_LARGE):
        store.put("large", large)
    assert not any(many)
    assert not any(large)
    assert not store.put("s0", bytearray(b"replaced"))[1]


def test_a_process_that_holds_a_secret_writes_no_core_file() -> None:
    SecretStore().put("name", bytearray(b"value"))
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
