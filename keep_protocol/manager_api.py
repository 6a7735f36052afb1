"""What goes over the wire between a client and a keep-manager."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from keep_protocol.evidence import EvidenceKind
from keep_protocol.machine import MachineStart
from keep_protocol.names import NAME_PATTERN
from keep_protocol.spec import KeepSpec, Limits
from keep_protocol.states import Backend, Desired, KeepState


class CreateKeep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/keeps`."""

    spec: KeepSpec
    name: Annotated[str, msgspec.Meta(max_length=4096, extra_json_schema={"pattern": NAME_PATTERN})] | None = None
    """Unique among the owner's keeps; made up by the manager when left out."""


class Directive(msgspec.Struct, frozen=True):
    """One line of a keep's sandbox and how far it is known to hold."""

    name: str
    status: Literal["verified now", "verified by probe", "not effective", "not testable"]
    detail: str = ""


class Keep(msgspec.Struct, frozen=True):
    """A keep as its manager knows it. Times are RFC 3339 in UTC."""

    id: str
    name: str
    owner: str
    """SPIFFE id of whoever created it."""
    state: KeepState
    reason: str | None
    """Why it is `failed`, in words that begin with a code."""
    desired: Desired
    backend: Backend
    evidence: EvidenceKind | None
    """What it was asked to prove itself with. The manager's word: only a policy of the client's own makes it count."""
    endpoint: str
    """`ADDRESS:PORT`, the same for the keep's whole life."""
    certificate: str | None
    """PEM; of a keep that is ready."""
    invocation: str | None
    pid: int | None
    restarts: int
    spec_digest: str
    limits: Limits
    created_at: str
    stale: bool
    """Whether systemd could not be asked: this is what was known last."""


class BrokerInfo(msgspec.Struct, frozen=True):
    """The network broker of a keep. `state` is systemd's, like `active`; null: it was not found."""

    unit: str
    state: str | None


class KeepDetail(msgspec.Struct, frozen=True):
    """`GET /v1/keeps/{id or name}`: the keep with what is known of its sandbox."""

    keep: Keep
    supervisor: str
    unit: str
    broker: BrokerInfo | None
    """Null of a keep whose spec names no network."""
    sandbox: tuple[Directive, ...]
    limits_enforced: bool
    spec: KeepSpec
    start: MachineStart | None = None
    """How its machine came to life, of a keep whose machine may be a clone of a template."""


class KeepList(msgspec.Struct, frozen=True):
    """The keeps that the caller may see, oldest first."""

    keeps: tuple[Keep, ...]
    orphans: tuple[str, ...]
    """Units of this deployment that no record knows; operators only."""
    foreign: tuple[str, ...]
    """Keep units of other deployments on the same systemd; operators only, never touched."""
    stale: bool


class KeepRecord(msgspec.Struct, frozen=True):
    """What a principal needs to reach and to check a keep."""

    id: str
    endpoint: str
    certificate: str
    spki_sha256: str
    backend: Backend
    evidence: EvidenceKind | None
    spec_digest: str
    invocation: str


class Check(msgspec.Struct, frozen=True):
    """One condition of a backend. `passed` is false with a `message` that names the remedy."""

    name: str
    passed: bool
    info: str = ""
    message: str = ""


class BackendInfo(msgspec.Struct, frozen=True):
    """A backend and whether this host can start keeps on it."""

    name: Backend
    available: bool
    checks: tuple[Check, ...]


class AttesterInfo(msgspec.Struct, frozen=True):
    """A kind of evidence, and whether process keeps of this host can make it."""

    kind: EvidenceKind
    available: bool
    checks: tuple[Check, ...]


class BackendList(msgspec.Struct, frozen=True):
    """All backends that this manager knows, and what its process keeps can prove themselves with."""

    backends: tuple[BackendInfo, ...]
    attesters: tuple[AttesterInfo, ...]


class Health(msgspec.Struct, frozen=True):
    """The manager about itself."""

    status: Literal["ok", "degraded"]
    version: str
    deployment: str
    supervisor: str
    """`system`, `user`, `private` or `detached`."""
    supervisor_reason: str
    """Why this one was taken."""
    supervisor_alive: bool
    started_at: str
    you: str
    roles: tuple[str, ...]


class Event(msgspec.Struct, frozen=True):
    """Something that happened; `cursor` orders all events of a deployment and never repeats."""

    cursor: int
    at: str
    kind: str
    """`keep-created`, `keep-ready`, `keep-failed`, `keep-stopped`, `keep-removed`, `request-denied`, …"""
    keep: str | None
    owner: str | None
    actor: str | None
    detail: dict[str, str]


class EventList(msgspec.Struct, frozen=True):
    """A page of events; ask again with `cursor=next`."""

    events: tuple[Event, ...]
    next: int


class ManagerFile(msgspec.Struct, frozen=True):
    """`<home>/manager.json`: how to reach the manager that serves this home."""

    url: str
    ca: str
    """Path of the PEM file that its server certificate is checked with."""
    pid: int
    deployment: str
    supervisor: str
    runtime: str
    """The manager's runtime directory."""
