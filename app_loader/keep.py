"""What a keep consists of, as its routes see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app_loader.clock import now
from app_loader.files import Files
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, spec_digest

if TYPE_CHECKING:
    # Only named here, so that the routes can be described without what executes guests.
    from app_loader.runs import Runs
    from app_loader.workload import Workload


class Keep:
    """One keep: what it was told, what it has loaded, what it runs, what it stores."""

    def __init__(
        self,
        configuration: Configuration,
        spec: KeepSpec,
        *,
        invocation: str,
        files: Files,
        workload: Workload,
        runs: Runs,
    ) -> None:
        self.id = configuration.id
        self.spec = spec
        self.spec_digest = spec_digest(configuration.spec.encode())
        self.invocation = invocation
        self.started_at = now()
        self.files = files
        self.workload = workload
        self.runs = runs
