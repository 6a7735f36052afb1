"""What goes over the wire about a keep's network: explained decisions, and events."""

from __future__ import annotations

from typing import Annotated

import msgspec

from keep_protocol.states import KeepEventKind


class RuleTried(msgspec.Struct, frozen=True):
    """One rule and what it has to say about a target."""

    rule: str
    """Its place and its text: `deny[2] *.example.com:443`."""
    applies: bool
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """Whether a target may be connected to."""

    allowed: bool
    host: str
    """In canonical form."""
    port: int
    method: str | None
    addresses: tuple[str, ...]
    """Those that were checked. Empty: none yet, for a name has to be resolved first."""
    rule: str | None
    """Which rule decided; None where none was about the target."""
    reason: str
    tried: tuple[RuleTried, ...]
    """Every rule, those that deny first."""


class EgressExplanation(msgspec.Struct, frozen=True):
    """What a keep would do if it were asked to connect, and what kept it from finding out all of it."""

    decision: Decision
    problem: str | None
    """Why the addresses of the host are not known."""


class EgressQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to explain the egress policy for: a `url`, which may be `HOST:PORT`, or `host` and `port`."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)] | None = None
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    method: Annotated[str, msgspec.Meta(min_length=1, max_length=32)] | None = None
    """Of an HTTP request; without it, for a connection that is not HTTP."""

    def __post_init__(self) -> None:
        by_url, by_host = self.url is not None, (self.host is not None, self.port is not None)
        if by_url == any(by_host) or (any(by_host) and not all(by_host)):
            raise ValueError("name either a `url`, or both `host` and `port`")


class KeepEvent(msgspec.Struct, frozen=True):
    """Something that happened; `cursor` counts from 1 in every life of the keep."""

    cursor: int
    at: str
    kind: KeepEventKind
    detail: dict[str, str]
    """Of a denial: `host`, `port`, `method`, `rule`, `reason`, as far as there are any. Of a secret that the keep
    fetches: its `name`, `source`, and `reason`. Of a run that is over: `run`, and of its record `reason`, `code`,
    `trap`, `message` and usage. Of a call or a request that failed: the members of its record."""


class KeepEventList(msgspec.Struct, frozen=True):
    """A page of events, oldest first; ask again with `cursor=next`."""

    events: tuple[KeepEvent, ...]
    next: int
    forgotten: int
    """Events between the cursor and `next` that are too old to be known any more."""
