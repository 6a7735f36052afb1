"""The seam to whatever runs keeps as units: systemd at one of three addresses, or the detached stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from keep_protocol.handover import SandboxFact
from keep_protocol.spec import Limits


class SupervisorKind(StrEnum):
    """Where keeps' units live."""

    SYSTEM = "system"
    USER = "user"
    PRIVATE = "private"
    DETACHED = "detached"


class ActiveState(StrEnum):
    """systemd's `ActiveState`, as far as service units have it; org.freedesktop.systemd1(5)."""

    ACTIVE = "active"
    ACTIVATING = "activating"
    DEACTIVATING = "deactivating"
    INACTIVE = "inactive"
    FAILED = "failed"


class UnitKind(StrEnum):
    """What a unit is for; what stands before the `@` in its name."""

    KEEP = "keep"
    BROKER = "keep-net"
    """The network broker of the keep with the same instance name."""


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """A unit as its supervisor sees it."""

    instance: str
    active: ActiveState
    sub: str
    result: str
    """systemd's `Result`: `success`, `exit-code`, `signal`, `oom-kill`, `start-limit-hit`, …"""
    main_pid: int | None
    invocation: str | None
    """32 hex digits; another one means another life of the keep."""
    restarts: int
    kind: UnitKind = UnitKind.KEEP


@dataclass(frozen=True, slots=True)
class SupervisorPaths:
    """Where the manager finds what belongs to a supervisor's units."""

    runtime: Path
    """`%t/wasmkeep`: `keeps/<instance>/keep.json`, `net/<instance>`, `hosts/<instance>`, `deployments/<deployment>`."""
    state: Path
    """Parent of the keeps' state folders, which are named like their instances."""
    logs: Path
    """Holds `<instance>.log`."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What a supervisor can be relied upon for; the tests are parametrised by it."""

    limits: frozenset[str]
    """Which of `memory`, `cpu`, `tasks` the kernel enforces."""
    sandbox: bool
    own_uid: bool
    """Whether keeps of different owners run under different users."""
    restarts_killed_keeps: bool
    """Whether a keep whose process is killed comes back at the same endpoint."""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Which directives a supervisor's keep units have, and what a probe unit with the same ones found of them."""

    directives: tuple[str, ...]
    facts: tuple[SandboxFact, ...]
    date: str
    """RFC 3339; when the probe ran."""


class Supervisor(Protocol):
    """Starts, stops, lists and watches the units of keeps and of their brokers; keep_protocol.names has their names.

    Every method raises `SupervisorUnavailableError` when the supervisor does not answer in time.
    """

    @property
    def kind(self) -> SupervisorKind: ...

    @property
    def reason(self) -> str:
        """Why this supervisor was taken, in words."""

    @property
    def paths(self) -> SupervisorPaths: ...

    @property
    def promises(self) -> Promises: ...

    @property
    def alive(self) -> bool:
        """Whether the last call was answered."""

    async def connect(self) -> None:
        """Find it, or start it where that is ours to do."""

    async def close(self) -> None:
        """Let go of it; units live on."""

    async def shut_down(self) -> None:
        """End it and whatever it left, where it is ours (`private`, `detached`); else only our units."""

    async def list(self) -> dict[str, UnitStatus]:
        """All keep units that are loaded, of every deployment, by instance."""

    async def status(self, instance: str) -> UnitStatus | None:
        """One unit, or None when it is not loaded."""

    async def start(self, instance: str, limits: Limits) -> UnitStatus:
        """Set the limits, start the unit, wait for READY. Raises `UnitStartError`."""

    async def stop(self, instance: str) -> None:
        """Stop the unit and wait until nothing of it runs; a unit that is not loaded is stopped already."""

    async def instance_of(self, pid: int) -> str | None:
        """The instance whose main process `pid` is."""

    async def brokers(self) -> dict[str, UnitStatus]:
        """All network brokers that are loaded, of every deployment, by the instances of their keeps."""

    async def start_broker(self, instance: str, configuration: bytes) -> UnitStatus:
        """Start a keep's broker anew with this `broker.json`, wait for READY. Raises `UnitStartError`."""

    async def stop_broker(self, instance: str) -> None:
        """Stop a keep's broker, if it has one, and remove what it was told."""

    def changes(self) -> AsyncIterator[UnitStatus]:
        """Every change of a unit, as it happens; ends when the supervisor goes away."""

    async def wipe(self, instance: str) -> None:
        """Remove a stopped unit's state, runtime folder, log and record of failure."""

    async def sandbox(self, *, machine: bool) -> SandboxReport:
        """What is known of the sandbox of its units, those of processes or of virtual machines.

        Tried once per unit text, systemd version and boot.
        """

    def log_path(self, instance: str) -> Path: ...
