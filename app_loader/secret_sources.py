"""The secrets that a keep fetches for itself: when, how often, and what is known of each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from app_loader.errors import AppLoaderError
from app_loader.key_release.errors import KeyRefusedError, KeyServiceError
from app_loader.secret_store import SecretStore
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.secret_api import SourceInfo, SourceState
from keep_protocol.secret_sources import KbsSource, SecretSource
from keep_protocol.states import KeepEventKind

ATTEMPT_SECONDS: Final = 30.0
"""For one fetch, with all its requests and the hardware's work: a service that drips holds nothing up for longer."""
PATIENCE: Final = 20.0
"""Seconds for which a run waits for a secret that has not been tried yet."""

_logger = logging.getLogger(__name__)

Fetch = Callable[[SecretSource], Awaitable[bytearray]]


class Record(Protocol):
    """Notes an event of the keep, for its principals."""

    def __call__(self, kind: KeepEventKind, **detail: str | int | None) -> None: ...


class Backoff(NamedTuple):
    """Seconds between attempts that fail: doubled from `first` up to `most`, and then up to half of it less."""

    first: float = 1.0
    most: float = 60.0

    def after(self, failures: int) -> float:
        """What is waited after so many failures in a row."""
        # Keeps that start together do not ask together for ever.
        doubled: float = self.first * 2.0 ** min(failures - 1, 16)
        return min(self.most, doubled) * random.uniform(0.5, 1.0)


class _Watched:
    """One source and what came of it."""

    def __init__(self, number: int, source: SecretSource) -> None:
        self.number = number
        self.source = source
        self.tried = asyncio.Event()
        """Set after the first attempt."""
        self.fetched_at: str | None = None
        self.failed_at: str | None = None
        self.failure: str | None = None
        self.next_attempt_at: str | None = None

    @property
    def label(self) -> str:
        """As the log names it."""
        return f"secrets[{self.number}] ({self.kind})"

    @property
    def kind(self) -> str:
        return "kbs" if isinstance(self.source, KbsSource) else "aws-kms"

    @property
    def place(self) -> str:
        """Where it is fetched."""
        source = self.source
        return f"{source.url.rstrip('/')}#{source.resource}" if isinstance(source, KbsSource) else source.endpoint

    def info(self, *, held: bool) -> SourceInfo:
        return SourceInfo(
            name=self.source.name,
            kind=self.kind,
            source=self.place,
            state=SourceState.FETCHED if held else SourceState.WAITING,
            fetched_at=self.fetched_at,
            failed_at=self.failed_at,
            failure=self.failure,
            next_attempt_at=self.next_attempt_at,
        )


class SecretSources:
    """Keeps a store filled with what the spec's sources give out."""

    def __init__(
        self,
        sources: Sequence[SecretSource],
        store: SecretStore,
        fetch: Fetch,
        record: Record,
        *,
        backoff: Backoff | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._watched = {source.name: _Watched(number, source) for number, source in enumerate(sources)}
        self._store = store
        self._fetch = fetch
        self._record = record
        self._backoff = backoff or Backoff()
        self._attempt_seconds = attempt_seconds
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to fetch, in a running event loop."""
        self._tasks = [asyncio.create_task(self._keep_fetched(watched)) for watched in self._watched.values()]

    async def close(self) -> None:
        """Fetch no more. What has been fetched stays in the store."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def names(self) -> frozenset[str]:
        """Of all secrets that are fetched."""
        return frozenset(self._watched)

    def list(self) -> tuple[SourceInfo, ...]:
        """What is known of each source, in the order of the spec."""
        return tuple(watched.info(held=self._store.holds(name)) for name, watched in self._watched.items())

    async def first_attempts(self, seconds: float = PATIENCE) -> None:
        """Wait until every source has been tried once, but no longer than so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for watched in self._watched.values():
                    await watched.tried.wait()

    async def require(self, names: Iterable[str], patience: float = PATIENCE) -> None:
        """Wait for those of `names` that are fetched and were not tried yet.

        Raises `RefusalError` (`secret-pending`) for one that is still not there then.
        """
        wanted = [self._watched[name] for name in names if name in self._watched]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                for watched in wanted:
                    await watched.tried.wait()
        for watched in wanted:
            if not self._store.holds(watched.source.name):
                reason = watched.failure or "no answer yet"
                raise RefusalError(
                    ErrorCode.SECRET_PENDING,
                    f"the secret {watched.source.name!r} has not been fetched: {reason}",
                    field="$.secrets",
                    remedy="try again later; GET /v1/secrets says what the keep last heard from where it fetches it",
                )

    async def _keep_fetched(self, watched: _Watched) -> None:
        failures = 0
        while True:
            watched.next_attempt_at = None
            if await self._attempt(watched):
                failures = 0
                pause: float | None = watched.source.refresh
            else:
                failures += 1
                pause = self._backoff.after(failures)
            if pause is not None:
                watched.next_attempt_at = _in(pause)
            watched.tried.set()
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def _attempt(self, watched: _Watched) -> bool:
        """Whether the secret is in the store, fetched just now."""
        source = watched.source
        try:
            value = await self._fetch_in_time(source)
            # A service that is away for a while loses nothing; one that stays away, or a host that cuts us off, does.
            self._store.put(source.name, value, None if source.refresh is None else 2 * source.refresh)
        except KeyRefusedError as error:
            self._failed(watched, str(error))
            self._forget(watched)
            return False
        except (AppLoaderError, RefusalError) as error:
            self._failed(watched, str(error))
            return False
        except Exception as error:
            # A defect of ours must not end the fetching unseen; its own words could hold a value.
            self._failed(watched, f"the keep failed ({type(error).__name__})")
            return False
        is_news = watched.fetched_at is None or watched.failure is not None
        watched.fetched_at, watched.failed_at, watched.failure = _in(0), None, None
        if is_news:
            self._note(KeepEventKind.SECRET_FETCHED, watched)
        return True

    async def _fetch_in_time(self, source: SecretSource) -> bytearray:
        try:
            async with asyncio.timeout(self._attempt_seconds):
                return await self._fetch(source)
        except TimeoutError:
            raise KeyServiceError(f"it took longer than {self._attempt_seconds:g} s") from None

    def _failed(self, watched: _Watched, reason: str) -> None:
        known, watched.failed_at, watched.failure = watched.failure, _in(0), reason
        if reason != known:
            # Events and the log are bounded: the same failure is noted once, however often it is tried.
            self._note(KeepEventKind.SECRET_FETCH_FAILED, watched)

    def _forget(self, watched: _Watched) -> None:
        # This is how a broker takes back what it has given out.
        if self._store.holds(watched.source.name):
            self._store.remove(watched.source.name)
            self._note(KeepEventKind.SECRET_FORGOTTEN, watched)

    def _note(self, kind: KeepEventKind, watched: _Watched) -> None:
        self._record(kind, name=watched.source.name, source=watched.place, reason=watched.failure)
        # The host knows from the spec whom the keep asks; what it was told helps operators, and holds no value.
        _logger.info("%s: %s%s", watched.label, kind, "" if watched.failure is None else f": {watched.failure}")


def _in(seconds: float) -> str:
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
