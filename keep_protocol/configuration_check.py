"""Whether a workload's configuration asks for no more than the spec of its keep allows."""

from __future__ import annotations

from collections.abc import Iterator

from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.spec import KeepSpec
from keep_protocol.states import WorkloadKind
from keep_protocol.workload_configuration import ConnectFile, HttpService, ListenFile, WorkloadConfiguration


def check_configuration(configuration: WorkloadConfiguration, spec: KeepSpec) -> None:
    """Raise `RefusalError` (`limit-exceeded` or `configuration-refused`) for what the spec does not allow, by name."""
    _check_limits(configuration, spec)
    if configuration.restart and not spec.restart_runs:
        raise _refused(
            "the workload wants interrupted runs to be started again, and the keep's spec has `restart_runs` false",
            "$.restart",
            "make a keep whose spec has `restart_runs` true",
        )
    if configuration.http is not None:
        _check_http(configuration.http)
    for where, port in _ports(configuration):
        if port not in spec.network.listen:
            raise _refused(
                f"the workload listens on port {port}, and the spec's `network.listen` does not name it",
                where,
                "make a keep whose spec names the port",
            )
    connecting = [
        (f"$.files[{number}]", file)
        for number, file in enumerate(configuration.files or ())
        if isinstance(file, ConnectFile)
    ]
    if connecting:
        _check_hosts(connecting, spec)
    for number, rule in enumerate(configuration.egress):
        if rule not in spec.network.egress.allow:
            raise _refused(
                f"the workload connects to {rule.host}, and no rule of the spec's `network.egress.allow` is this one",
                f"$.egress[{number}]",
                "make a keep whose spec has the rule",
            )


def answers_http(kind: WorkloadKind | None, http: HttpService | None) -> bool:
    """Whether a workload of this kind answers HTTP requests with this configuration."""
    if http is not None and (not http.enabled or http.wagi):
        return http.enabled and kind is not None and kind.is_command
    return kind is WorkloadKind.HTTP_PROXY


def check_workload(configuration: WorkloadConfiguration | None, kind: WorkloadKind | None) -> None:
    """Raise `RefusalError` (`configuration-refused`) if a workload of this kind cannot be what is configured."""
    http = None if configuration is None else configuration.http
    if http is not None and http.wagi and kind is not None and not kind.is_command:
        raise _refused(
            f"`http.wagi` is for commands, and the workload is a {kind.value}",
            "$.http.wagi",
            "take `wagi` out of the configuration before a component is loaded, or load a command before it is put in",
        )


def _check_http(http: HttpService) -> None:
    if http.public and http.port is None:
        raise _refused(
            "`http.public` is for a port of the workload's own, and `http.port` names none",
            "$.http.public",
            "name a port; /v1/http/ is for owners and callers",
        )


def _check_limits(configuration: WorkloadConfiguration, spec: KeepSpec) -> None:
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


def _ports(configuration: WorkloadConfiguration) -> Iterator[tuple[str, int]]:
    for number, file in enumerate(configuration.files or ()):
        if isinstance(file, ListenFile):
            yield f"$.files[{number}].port", file.port
    if configuration.http is not None and configuration.http.port is not None:
        yield "$.http.port", configuration.http.port


def _check_hosts(connecting: list[tuple[str, ConnectFile]], spec: KeepSpec) -> None:
    # Most configurations name no hosts, and import nothing that reads rules.
    from keep_protocol.egress.decision import explain
    from keep_protocol.egress.errors import EgressError
    from keep_protocol.egress.rules import EgressPolicy
    from keep_protocol.egress.targets import target_of

    policy = EgressPolicy.of(spec.network.egress)
    for where, file in connecting:
        try:
            decision = explain(policy, target_of(file.host, file.port))
        except EgressError as error:
            raise RefusalError(ErrorCode.FIELD_INVALID, str(error), field=f"{where}.host") from None
        if not decision.allowed:
            raise _refused(
                f"the spec does not allow a connection to {file.host}:{file.port}: {decision.reason}",
                where,
                "make a keep whose spec allows it in `network.egress`",
            )


def _refused(detail: str, field: str, remedy: str) -> RefusalError:
    return RefusalError(ErrorCode.CONFIGURATION_REFUSED, detail, field=field, remedy=remedy)
