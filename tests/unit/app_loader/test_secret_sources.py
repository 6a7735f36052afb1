"""When a keep fetches its secrets, what it makes of failures, and what it tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import pytest

from app_loader.events import Events
from app_loader.key_release.errors import KeyRefusedError, KeyServiceError
from app_loader.secret_sources import Backoff, SecretSources
from app_loader.secret_store import SecretStore
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.secret_api import MAX_SECRET, SourceInfo, SourceState
from keep_protocol.secret_sources import KbsSource, SecretSource

T = TypeVar("T")

CANARY = b"canary-77aa"
PATIENCE = 20.0
AT_ONCE = Backoff(0.001, 0.002)

SOURCE = KbsSource("key", "https://kbs.example/", "default/key/1")
RENEWED = KbsSource("key", "https://kbs.example/", "default/key/1", refresh=1)


class Service:
    """Answers fetches with what it was told, one after the other; the last answer stays."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[SecretSource] = []
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, source: SecretSource) -> bytearray:
        self.asked.append(source)
        await self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return bytearray(answer)


def play(
    scenario: Callable[[SecretSources, SecretStore], Awaitable[T]],
    service: Service,
    sources: Iterable[SecretSource] = (SOURCE,),
    attempt_seconds: float = PATIENCE,
    store: SecretStore | None = None,
    events: Events | None = None,
) -> T:
    """Play a scenario while a keep fetches; attempts that fail are repeated at once."""

    async def work() -> T:
        held = store or SecretStore()
        record = (events or Events()).record
        fetched = SecretSources(
            tuple(sources), held, service.fetch, record, backoff=AT_ONCE, attempt_seconds=attempt_seconds
        )
        fetched.start()
        try:
            async with asyncio.timeout(PATIENCE):
                return await scenario(fetched, held)
        finally:
            await fetched.close()

    return asyncio.run(work())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def only(sources: SecretSources) -> SourceInfo:
    (info,) = sources.list()
    return info


def test_a_secret_is_fetched_once_and_kept_until_the_keep_ends() -> None:
    service = Service(CANARY)

    async def scenario(sources: SecretSources, store: SecretStore) -> SourceInfo:
        await sources.require(["key", "another"])
        assert store.get("key") == CANARY
        assert store.list()[0].expires_at is None
        return only(sources)

    info = play(scenario, service)
    assert service.asked == [SOURCE]
    assert (info.name, info.kind, info.source) == ("key", "kbs", "https://kbs.example#default/key/1")
    assert (info.state, info.failure, info.next_attempt_at) == (SourceState.FETCHED, None, None)
    assert info.fetched_at is not None


def test_it_is_fetched_again_and_again_until_there_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service(*[KeyServiceError("the service is away")] * 3, KeyRefusedError("not yet"), CANARY)

    async def scenario(sources: SecretSources, store: SecretStore) -> SourceInfo:
        await until(lambda: store.holds("key"))
        return only(sources)

    events = Events()
    info = play(scenario, service, events=events)
    assert len(service.asked) == 5
    assert (info.state, info.failure, info.failed_at) == (SourceState.FETCHED, None, None)
    # Events and the log are bounded: a failure that stays the same is noted once.
    noted = [(event.kind, event.detail.get("reason")) for event in events.page(0, 100).events]
    assert noted == [
        ("secret-fetch-failed", "the service is away"),
        ("secret-fetch-failed", "not yet"),
        ("secret-fetched", None),
    ]
    assert caplog.text.count("the service is away") == 1
    assert "secrets[0] (kbs): secret-fetched" in caplog.text
    assert CANARY.decode() not in caplog.text


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    backoff = Backoff(1.0, 60.0)
    for failures, most in ((1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (10_000, 60.0)):
        pauses = {backoff.after(failures) for _ in range(50)}
        assert all(most / 2 <= pause <= most for pause in pauses)
        assert len(pauses) > 1


def test_a_run_waits_for_a_first_attempt_and_is_refused_after_one_that_failed() -> None:
    service = Service(KeyRefusedError("the broker does not accept the keep's evidence"))

    async def scenario(sources: SecretSources, store: SecretStore) -> tuple[RefusalError, RefusalError]:
        service.open.clear()
        with pytest.raises(RefusalError) as impatient:
            await sources.require(["key"], 0.0)
        waiting = asyncio.create_task(sources.require(["key"], PATIENCE))
        service.open.set()
        with pytest.raises(RefusalError) as refused:
            await waiting
        return impatient.value, refused.value

    impatient, refused = play(scenario, service)
    assert impatient.code == refused.code == ErrorCode.SECRET_PENDING
    assert "no answer yet" in impatient.detail
    assert "does not accept the keep's evidence" in refused.detail
    assert refused.code.status == 503


def test_secrets_that_nobody_fetches_are_nobodys_to_wait_for() -> None:
    service = Service(CANARY)

    async def scenario(sources: SecretSources, store: SecretStore) -> None:
        service.open.clear()
        await sources.require(["put-by-hand"])

    play(scenario, service)


def test_a_service_that_drips_is_given_up_in_time() -> None:
    service = Service(CANARY)

    async def scenario(sources: SecretSources, store: SecretStore) -> SourceInfo:
        service.open.clear()
        await sources.first_attempts(PATIENCE)
        return only(sources)

    info = play(scenario, service, attempt_seconds=0.01)
    assert (info.state, info.failure) == (SourceState.WAITING, "it took longer than 0.01 s")
    assert info.failed_at is not None
    assert info.next_attempt_at is not None


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_renewed_secret_is_replaced_and_lasts_while_its_service_is_away() -> None:
    service = Service(CANARY, b"rotated", KeyServiceError("the service is away"))
    clock = Clock()
    store = SecretStore(clock)

    async def scenario(sources: SecretSources, store: SecretStore) -> SourceInfo:
        await sources.require(["key"])
        assert store.get("key") == CANARY
        assert only(sources).next_attempt_at is not None
        await until(lambda: only(sources).failure is not None)
        assert store.get("key") == b"rotated"
        clock.now += 2.0
        assert not store.holds("key")
        return only(sources)

    info = play(scenario, service, [RENEWED], store=store)
    assert (info.state, info.failure) == (SourceState.WAITING, "the service is away")


def test_a_secret_that_is_refused_later_is_forgotten() -> None:
    service = Service(CANARY, KeyRefusedError("revoked"))

    async def scenario(sources: SecretSources, store: SecretStore) -> None:
        await sources.require(["key"])
        await until(lambda: not store.holds("key"))
        with pytest.raises(RefusalError, match="revoked"):
            await sources.require(["key"])

    events = Events()
    play(scenario, service, [RENEWED], store=SecretStore(Clock()), events=events)
    kinds = [event.kind for event in events.page(0, 100).events]
    assert kinds == ["secret-fetched", "secret-fetch-failed", "secret-forgotten"]


def test_a_value_that_the_store_does_not_take_is_a_failure_like_others() -> None:
    async def scenario(sources: SecretSources, store: SecretStore) -> SourceInfo:
        await sources.first_attempts(PATIENCE)
        return only(sources)

    info = play(scenario, Service(bytes(MAX_SECRET + 1)))
    assert info.failure == f"a secret has at most {MAX_SECRET} bytes"


def test_a_defect_of_ours_does_not_end_the_fetching_and_says_no_value(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service(ValueError(CANARY.decode()), CANARY)

    async def scenario(sources: SecretSources, store: SecretStore) -> None:
        await until(lambda: store.holds("key"))

    play(scenario, service)
    assert "the keep failed (ValueError)" in caplog.text
    assert CANARY.decode() not in caplog.text


def test_sources_do_not_wait_for_each_other() -> None:
    other = KbsSource("other", "https://kbs.example", "default/key/2")
    never = asyncio.Event()

    class Halting(Service):
        async def fetch(self, source: SecretSource) -> bytearray:
            if source is SOURCE:
                await never.wait()
            return await super().fetch(source)

    async def scenario(sources: SecretSources, store: SecretStore) -> tuple[SourceInfo, ...]:
        await sources.require(["other"])
        return sources.list()

    states = [info.state for info in play(scenario, Halting(CANARY), [SOURCE, other])]
    assert states == [SourceState.WAITING, SourceState.FETCHED]
