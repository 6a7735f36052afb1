"""One run as it will be: what its request says, over what the workload's configuration says, over what is usual."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from app_loader.runner_messages import shimmed
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import DEFAULT_MOUNTS, Mount, RunRequest, Stdin
from keep_protocol.secret_api import SecretUse
from keep_protocol.spec import Limits
from keep_protocol.workload_configuration import Descriptor, OutputPolicy, WorkloadConfiguration

_NOTHING: Final = WorkloadConfiguration()


class RunPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every field decided. Sizes in bytes, times in seconds."""

    args: tuple[str, ...]
    program: str
    env: dict[str, str]
    stdin: Literal["none", "stream"] | Stdin
    stdout: OutputPolicy
    stderr: OutputPolicy
    mounts: tuple[Mount, ...]
    memory: int
    timeout: float
    output_limit: int
    secrets: tuple[SecretUse, ...]
    files: tuple[Descriptor, ...] | None
    """None: the standard streams alone."""

    @property
    def shimmed(self) -> bool:
        """Whether `files` names sockets, or streams at numbers where WASI has none."""
        return shimmed([file.__struct_config__.tag for file in self.files or ()])

    @property
    def discarded(self) -> frozenset[str]:
        """Output streams that nobody keeps."""
        return frozenset(
            name for name, policy in (("stdout", self.stdout), ("stderr", self.stderr)) if policy is OutputPolicy.NULL
        )


def plan_run(request: RunRequest, configuration: WorkloadConfiguration | None, limits: Limits) -> RunPlan:
    """What a request amounts to. Raises `RefusalError` for what the spec's limits do not allow."""
    _check_limits(request, limits)
    configured = configuration or _NOTHING
    mounts = request.mounts if request.mounts is not None else configured.mounts
    return RunPlan(
        args=configured.args if request.args is None else request.args,
        program=request.program,
        env={**configured.env, **request.env},
        stdin=configured.stdin if request.stdin is None else request.stdin,
        stdout=configured.stdout,
        stderr=configured.stderr,
        mounts=DEFAULT_MOUNTS if mounts is None else mounts,
        memory=request.memory or configured.limits.memory or limits.memory,
        timeout=request.timeout or configured.limits.run_time or limits.run_time,
        output_limit=_first(request.output_limit, configured.limits.output, limits.output),
        secrets=secrets_of(request, configuration),
        files=configured.files,
    )


def secrets_of(request: RunRequest, configuration: WorkloadConfiguration | None) -> tuple[SecretUse, ...]:
    """The secrets that a run gets."""
    return (configuration or _NOTHING).secrets if request.secrets is None else request.secrets


def check_request_of_caller(request: RunRequest, configuration: WorkloadConfiguration | None) -> None:
    """What a caller who is no owner may not say. Raises `RefusalError` (`forbidden`).

    A caller who chooses arguments, environment or folders could have a workload print the secrets that it gets.
    """
    if request.secrets:
        raise RefusalError(ErrorCode.FORBIDDEN, "only owners start runs with `secrets`", field="$.secrets")
    if configuration is None or not configuration.secrets:
        return
    usual = RunRequest()
    for name in ("args", "program", "env", "mounts", "secrets"):
        if getattr(request, name) != getattr(usual, name):
            raise RefusalError(
                ErrorCode.FORBIDDEN,
                f"runs of this workload get secrets by its configuration, so only owners choose their `{name}`",
                field=f"$.{name}",
            )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _check_limits(request: RunRequest, limits: Limits) -> None:
    for name, value, limit, unit in (
        ("memory", request.memory, limits.memory, "bytes"),
        ("timeout", request.timeout, limits.run_time, "s"),
        ("output_limit", request.output_limit, limits.output, "bytes"),
    ):
        if value is not None and value > limit:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED, f"`{name}` is {value} {unit}, the keep's spec allows {limit}", field=name
            )
