"""What a run's process is told to do, from the run's plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app_loader.runner_messages import Assignment, GuestMount
from app_loader.secret_delivery import Delivery

if TYPE_CHECKING:
    # Imported with the first run.
    from app_loader.run_plan import RunPlan


def assignment_of(plan: RunPlan, secrets: Delivery, file_size: int, source: str | None) -> Assignment:
    """With its secrets; `file_size` is of the longest file that it may write, `source` what its runtime is to run."""
    from app_loader.run_sockets import descriptor_environment, guest_files

    return Assignment(
        arguments=(plan.program, *(() if source is None else ("-c", source)), *plan.args),
        environment=(*descriptor_environment(plan.files), *plan.env.items(), *secrets.environment),
        memory=plan.memory,
        file_size=file_size,
        mounts=(*(GuestMount(mount.guest, mount.writable) for mount in plan.mounts), *secrets.mounts),
        files=guest_files(plan.files),
    )
