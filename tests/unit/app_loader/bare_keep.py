"""A keep that is only what its routes ask: its spec, and whatever a test gives it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from app_loader.calls import Calls
from app_loader.configuration_store import ConfigurationStore
from app_loader.files import Files
from app_loader.http_service import HttpService
from app_loader.keep import Keep
from app_loader.runs import Runs
from app_loader.workload import Workload
from keep_protocol.handover import Configuration
from keep_protocol.spec import KeepSpec, canonical


def bare_keep(
    wanted: KeepSpec, *, state: Path | None = None, sealing_keys: tuple[str, ...] = (), workload: object = None
) -> Keep:
    """A keep that has no files, runs, calls or HTTP; routes that want one fail loudly."""
    raw = canonical(wanted).decode()
    return Keep(
        Configuration("0" * 16, "1" * 8, raw, "example.org", (), sealing_keys=sealing_keys),
        wanted,
        invocation="f" * 32,
        files=cast(Files, None),
        workload=cast(Workload, workload),
        runs=cast(Runs, None),
        calls=cast(Calls, None),
        http=cast(HttpService, None),
        workload_configuration=ConfigurationStore(state or Path("/nonexistent"), wanted),
        state=state,
    )
