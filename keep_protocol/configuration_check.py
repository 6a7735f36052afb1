"""Whether a workload's configuration asks for no more than the spec of its keep allows."""

from __future__ import annotations

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import KeepSpec
from keep_protocol.workload_configuration import WorkloadConfiguration


def check_configuration(configuration: WorkloadConfiguration, spec: KeepSpec) -> None:
    """Raise `RefusalError` (`limit-exceeded` or `configuration-refused`) for what the spec does not allow."""
    limits = configuration.limits
    for name, value, allowed, unit in (
        ("memory", limits.memory, spec.limits.memory, "bytes"),
        ("run_time", limits.run_time, spec.limits.run_time, "s"),
        ("output", limits.output, spec.limits.output, "bytes"),
    ):
        if value is not None and value > allowed:
            raise RefusalError(
                ErrorCode.LIMIT_EXCEEDED,
                f"`limits.{name}` is {value} {unit}, the keep's spec allows {allowed}",
                field=f"$.limits.{name}",
            )
    if configuration.restart and not spec.restart_runs:
        raise RefusalError(
            ErrorCode.CONFIGURATION_REFUSED,
            "the workload wants interrupted runs to be started again, and the keep's spec has `restart_runs` false",
            field="$.restart",
            remedy="make a keep whose spec has `restart_runs` true",
        )
