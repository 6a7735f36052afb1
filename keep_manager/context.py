"""What the routes work on: the parts of one running manager."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from keep_manager.config import Home, Settings
from keep_manager.events import EventLog
from keep_manager.keeps import Keeps
from keep_manager.lifecycle import Lifecycle
from keep_manager.machines.machines import Machines
from keep_manager.roles import RolesTable
from keep_manager.store import timestamp
from keep_manager.supervisor.interface import Supervisor
from keep_manager.trust import Trust


@dataclass(slots=True)
class ManagerContext:
    """One manager, wired."""

    home: Home
    settings: Settings
    supervisor: Supervisor
    roles: RolesTable
    events: EventLog
    lifecycle: Lifecycle
    keeps: Keeps
    trust: Trust
    machines: Machines
    started_at: str = field(default_factory=timestamp)
    started: float = field(default_factory=time.monotonic)
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by route and status."""
