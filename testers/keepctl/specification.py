"""From options to the spec of a new keep: limits, network, evidence, and who is let in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import msgspec

from keep_client import InvalidArgumentError, named_principal, pinned_principal, principal_of
from keep_client.identity import check_spiffe_id
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.rule_text import RULE_SYNTAX, parse_rule
from keep_protocol.evidence import EvidenceKind
from keep_protocol.network_policy import NO_NETWORK, Egress, EgressRule, NetworkPolicy
from keep_protocol.spec import DEFAULT_LIMITS, EVIDENCE_OF_BACKEND, Limits, Principal
from keep_protocol.states import AtRest, Backend, KeepRole
from testers.deployment import Deployment, read_pem
from testers.keepctl.command import add_policy_option
from testers.keepctl.named_choices import word_of
from testers.keepctl.quantities import percentage, size, size_text, whole_duration

SPEC_OPTIONS: Final = {
    "name": "--name",
    "spec.evidence": "--evidence",
    "spec.principals": "--allow",
    "spec.secrets": "--secret-from-kbs",
    **{f"spec.limits.{field}": f"--{field.replace('_', '-')}" for field in Limits.__struct_fields__},
    "spec.limits.workload": "--workload-limit",
    "spec.limits.output": "--output-limit",
}
"""What sets each field of `POST /v1/keeps`."""


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """One option for each limit of a spec."""
    group = parser.add_argument_group("limits of the keep")
    default = DEFAULT_LIMITS
    for name, field, kind, metavar, text, usual in (
        ("--memory", "memory", size, "SIZE", "memory of all its processes", size_text(default.memory)),
        ("--cpu", "cpu", percentage, "PERCENT", "share of one processor", f"{default.cpu}"),
        ("--tasks", "tasks", int, "N", "processes and threads", f"{default.tasks}"),
        ("--files", "files", size, "SIZE", "input, output and data together", size_text(default.files)),
        ("--workload-limit", "workload", size, "SIZE", "size of an uploaded .wasm", size_text(default.workload)),
        ("--output-limit", "output", size, "SIZE", "stdout and stderr of one run", size_text(default.output)),
        ("--run-time", "run_time", whole_duration, "TIME", "duration of one run", f"{default.run_time}s"),
        ("--runs", "runs", int, "N", "runs at the same time", f"{default.runs}"),
    ):
        group.add_argument(name, dest=f"limit_{field}", type=kind, metavar=metavar, help=f"{text} (default: {usual})")


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits that `add_limit_options` collected, with the defaults for the others."""
    given = {field: getattr(options, f"limit_{field}") for field in Limits.__struct_fields__}
    return msgspec.structs.replace(
        DEFAULT_LIMITS, **{field: value for field, value in given.items() if value is not None}
    )


def add_at_rest_option(parser: argparse.ArgumentParser) -> None:
    """How a new keep's state lies on the host's disk."""
    parser.add_argument(
        "--at-rest",
        choices=[each.value for each in AtRest],
        default=AtRest.SEALED,
        help="how its workload, files and outputs lie on disk (default: %(default)s)",
    )


def add_evidence_options(parser: argparse.ArgumentParser) -> None:
    """What a new keep is made of, what it has to prove itself with, and to what."""
    parser.add_argument(
        "--backend",
        metavar="NAME",
        default=Backend.PROCESS,
        type=word_of(Backend),
        choices=tuple(Backend),
        help=f"what isolates it: {', '.join(Backend)} (default: process; `keepctl backends` says what works)",
    )
    parser.add_argument(
        "--evidence",
        metavar="KIND",
        choices=[each.value for each in EvidenceKind],
        help=f"what it proves itself with: {', '.join(EvidenceKind)} (default: what its backend demands)",
    )
    add_policy_option(parser)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """What a new keep may do on the network; without any of them nothing."""
    group = parser.add_argument_group("network of the keep (default: none)")
    group.add_argument(
        "--listen", metavar="PORT", type=_port, action="append", default=[], help="let the workload listen on PORT"
    )
    for name, text in (
        ("--egress-allow", "let it connect to hosts, such as https://api.example.com or **.example.com:443,8443"),
        ("--egress-deny", "not to these, whatever else is allowed"),
    ):
        group.add_argument(name, metavar="RULE", type=_rule, action="append", default=[], help=text)


def network_of(options: argparse.Namespace, demanded: NetworkPolicy = NO_NETWORK) -> NetworkPolicy:
    """What `add_network_options` collected, beside what a workload's file demands.

    Raises `InvalidArgumentError` for rules that contradict each other.
    """
    listen = (*demanded.listen, *(port for port in options.listen if port not in demanded.listen))
    allow = (*demanded.egress.allow, *(rule for rule in options.egress_allow if rule not in demanded.egress.allow))
    try:
        egress = Egress(allow=allow, deny=(*demanded.egress.deny, *options.egress_deny))
        return NetworkPolicy(listen=listen, egress=egress)
    except ValueError as error:
        raise InvalidArgumentError(f"the network options: {error}") from error


def _rule(text: str) -> EgressRule:
    try:
        return parse_rule(text)
    except EgressError as error:
        raise argparse.ArgumentTypeError(f"{error}; a rule is {RULE_SYNTAX}") from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def evidence_of(options: argparse.Namespace) -> EvidenceKind | None:
    """What `--evidence` says, or what the backend demands.

    Raises `InvalidArgumentError` for a policy without evidence, which would demand it in vain.
    """
    # The first kind is the usual one, for backends that have a choice.
    kind: EvidenceKind | None = options.evidence or EVIDENCE_OF_BACKEND[options.backend][0]
    if kind is None and options.policy is not None:
        raise InvalidArgumentError("--policy is for keeps that prove themselves: give --evidence too")
    return None if kind is None else EvidenceKind(kind)


def allowance(text: str) -> tuple[KeepRole, str]:
    """`ROLE=CERT.pem` or `ROLE=spiffe://…`. Raises `argparse.ArgumentTypeError`."""
    role, separator, who = text.partition("=")
    if not separator or not who:
        raise argparse.ArgumentTypeError(f"{text!r}: expected ROLE=CERT.pem or ROLE=spiffe://DOMAIN/user/NAME")
    try:
        return KeepRole(role), who
    except ValueError:
        roles = ", ".join(KeepRole)
        raise argparse.ArgumentTypeError(f"{role!r} is not a role of keeps: expected one of {roles}") from None


def principals_of(
    deployment: Deployment, allowances: list[tuple[KeepRole, str]], backend: Backend
) -> tuple[Principal, ...]:
    """Ourselves as owner, and everybody whom `--allow` names. Raises `InvalidArgumentError`."""
    own = deployment.credentials().certificate
    return (
        _principal(KeepRole.OWNER, str(own), deployment, backend),
        *(_principal(role, who, deployment, backend) for role, who in allowances),
    )


def _principal(role: KeepRole, who: str, deployment: Deployment, backend: Backend) -> Principal:
    client_ca = deployment.client_ca_pem()
    if not who.startswith("spiffe://"):
        try:
            if backend.is_measured:
                # The host's CA could certify others under the same name; nobody else has this very certificate's key.
                return pinned_principal(read_pem(Path(who)), (role,))
            return principal_of(read_pem(Path(who)), (role,), client_ca=client_ca)
        except InvalidArgumentError as error:
            hint = "" if client_ca else " (--client-ca)"
            raise InvalidArgumentError(f"{who}: {error}{hint}") from error
    if client_ca is None:
        raise InvalidArgumentError(f"{who} is certified by a CA: give that CA's certificate with --client-ca")
    return named_principal(check_spiffe_id(who), (role,), client_ca=client_ca)
