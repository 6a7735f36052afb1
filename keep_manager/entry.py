"""A keep in the manager's memory: its record on disk, and what is known of its unit right now."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from keep_manager.store import KeepRow
from keep_manager.supervisor.interface import ActiveState
from keep_protocol.handover import SandboxFact
from keep_protocol.machine import MachineStart
from keep_protocol.manager_api import Keep, KeepRecord
from keep_protocol.spec import KeepSpec, decode_spec, spec_digest
from keep_protocol.states import KeepState


@dataclass(slots=True, eq=False)
class KeepEntry:
    """One keep. Whoever acts on its unit or changes its record holds `lock`."""

    row: KeepRow
    spec: KeepSpec
    spec_digest: str
    state: KeepState
    """Ahead of `row.state` while systemd is starting or stopping the unit."""
    reason: str | None = None
    spki_sha256: str | None = None
    pid: int | None = None
    restarts: int = 0
    broker: ActiveState | None = None
    """The state of its network broker; None: it has none, or none was found."""
    sandbox: tuple[SandboxFact, ...] = ()
    start: MachineStart | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, row: KeepRow) -> KeepEntry:
        """The entry for a record, with the state it had last."""
        return cls(row, decode_spec(row.spec), spec_digest(row.spec), row.state, row.reason)

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def owner(self) -> str:
        return self.row.owner

    def wire(self, *, stale: bool) -> Keep:
        """The keep as the API shows it. A certificate and a process are shown of a ready keep only."""
        ready = self.state is KeepState.READY
        return Keep(
            id=self.row.id,
            name=self.row.name,
            owner=self.row.owner,
            state=self.state,
            reason=self.reason,
            desired=self.row.desired,
            backend=self.spec.backend,
            evidence=self.spec.evidence,
            endpoint=self.row.endpoint,
            certificate=self.row.certificate if ready else None,
            invocation=self.row.invocation if ready else None,
            pid=self.pid,
            restarts=self.restarts,
            spec_digest=self.spec_digest,
            limits=self.spec.limits,
            created_at=self.row.created_at,
            stale=stale,
        )

    def record(self) -> KeepRecord | None:
        """What principals need; None while there is no verified life of the keep."""
        row = self.row
        if self.state is not KeepState.READY or not (row.certificate and row.invocation and self.spki_sha256):
            return None
        return KeepRecord(
            id=row.id,
            endpoint=row.endpoint,
            certificate=row.certificate,
            spki_sha256=self.spki_sha256,
            backend=self.spec.backend,
            evidence=self.spec.evidence,
            spec_digest=self.spec_digest,
            invocation=row.invocation,
        )
