"""A keep-manager, for sync code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keep_client import manager_calls
from keep_client.addresses import manager_url
from keep_client.channel import Channel
from keep_client.connections import TlsConnections
from keep_client.credentials import Credentials, Home
from keep_client.errors import ConnectionFailedError
from keep_client.event_stream import EventStreamParser, Reconnection
from keep_client.specs import check_authorities
from keep_client.tls import manager_context
from keep_protocol.manager_api import (
    BackendList,
    Event,
    EventList,
    Health,
    Keep,
    KeepDetail,
    KeepList,
    KeepRecord,
)
from keep_protocol.spec import KeepSpec


class ManagerClient:
    """Talks to the manager at `url`, whose certificate `ca` (a PEM file) must certify.

    A keep is named by its id or its name. Every method raises `KeepClientError`. Close it, or use it in `with`.
    """

    def __init__(self, url: str, *, ca: Path, credentials: Credentials) -> None:
        self.url = manager_url(url)
        self.ca = ca
        self.credentials = credentials
        self._channel = Channel(
            self.url, TlsConnections(manager_context(ca, credentials)), f"the manager at {self.url}"
        )

    @classmethod
    def from_home(cls, home: Path, *, credentials: Credentials | None = None) -> Self:
        """The manager that serves this home directory; as its first operator unless told otherwise."""
        found = Home(home)
        manager = found.manager()
        return cls(manager.url, ca=home / manager.ca, credentials=credentials or found.operator)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._channel.close()

    def health(self) -> Health:
        """The manager about itself and about us."""
        return self._channel.call(manager_calls.health())

    def backends(self) -> BackendList:
        """What can isolate keeps on that host."""
        return self._channel.call(manager_calls.backends())

    def create_keep(self, spec: KeepSpec, *, name: str | None = None, idempotency_key: str | None = None) -> Keep:
        """A new keep that is ready. Raises `SpecMismatchError` when it was made from another spec.

        Refused with `InvalidArgumentError`: a keep of trusted hardware whose principals a CA of the host could name.
        """
        check_authorities(spec, self.credentials.certificate.read_text("ascii"), self.ca.read_text("ascii"))
        return self._channel.call(manager_calls.create_keep(spec, name, idempotency_key))

    def list_keeps(self) -> KeepList:
        """The keeps that we may see, oldest first."""
        return self._channel.call(manager_calls.list_keeps())

    def get_keep(self, ref: str) -> KeepDetail:
        """One keep with its spec and its sandbox."""
        return self._channel.call(manager_calls.get_keep(ref))

    def get_record(self, ref: str) -> KeepRecord:
        """How to reach a keep and what to check it against."""
        return self._channel.call(manager_calls.get_record(ref))

    def start_keep(self, ref: str) -> Keep:
        """Start a stopped or failed keep; returns when it is ready."""
        return self._channel.call(manager_calls.change_keep(ref, "start"))

    def stop_keep(self, ref: str) -> Keep:
        """Stop a keep; its workload and files stay."""
        return self._channel.call(manager_calls.change_keep(ref, "stop"))

    def restart_keep(self, ref: str) -> Keep:
        """Stop and start a keep; it has a new key afterwards."""
        return self._channel.call(manager_calls.change_keep(ref, "restart"))

    def remove_keep(self, ref: str) -> None:
        """End a keep and forget all that it held."""
        self._channel.call(manager_calls.remove_keep(ref))

    def logs(self, ref: str, *, lines: int | None = None) -> str:
        """What the keep's loader wrote, the last `lines` of it; never what a workload wrote."""
        return self._channel.call(manager_calls.logs(ref, lines))

    def list_events(self, cursor: int = 0, *, limit: int | None = None) -> EventList:
        """A page of what happened after `cursor`."""
        return self._channel.call(manager_calls.list_events(cursor, limit))

    def events(self, since: int = 0, *, patience: float = 60.0) -> Iterator[Event]:
        """What happened after the cursor `since`, and then everything as it happens, without end.

        Connects again when the manager restarts; raises `ConnectionFailedError` after about `patience` seconds
        without one.
        """
        reconnection = Reconnection(patience)
        while True:
            parser = EventStreamParser()
            try:
                with closing(self._channel.stream(manager_calls.follow_events(since))) as chunks:
                    for chunk in chunks:
                        reconnection.succeeded()
                        for event in parser.feed(chunk):
                            since = event.cursor
                            yield event
                failure = ConnectionFailedError(f"the manager at {self.url} ended its stream of events")
            except ConnectionFailedError as error:
                failure = error
            if (delay := reconnection.next_delay()) is None:
                raise failure
            time.sleep(delay)

    def metrics(self) -> str:
        """The manager's counters in the text format of Prometheus."""
        return self._channel.call(manager_calls.metrics())

    def openapi(self) -> dict[str, Any]:
        """The manager's OpenAPI document."""
        return self._channel.call(manager_calls.openapi())
