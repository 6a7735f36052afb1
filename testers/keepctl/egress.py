"""`keepctl egress explain`: whether a keep may connect to somebody, and which rule says so."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from keep_client import InvalidArgumentError
from keep_protocol.egress.decision import explain
from keep_protocol.egress.errors import EgressError
from keep_protocol.egress.hosts import canonical_address
from keep_protocol.egress.rules import EgressPolicy
from keep_protocol.egress.targets import parse_target
from keep_protocol.network_api import EgressExplanation
from keep_protocol.network_policy import NetworkPolicy
from testers.deployment import Deployment
from testers.keepctl.command import add_command, add_policy_option
from testers.keepctl.connecting import open_keep
from testers.keepctl.console import show_fields, show_json, show_table

if TYPE_CHECKING:
    from testers.keepctl.command import Subparsers

DENIED = 1


def register(subparsers: Subparsers) -> None:
    """Declare these commands."""
    egress = subparsers.add_parser(
        "egress", help="what a keep may connect to", description="Ask about a keep's egress policy."
    )
    actions = egress.add_subparsers(required=True, metavar="COMMAND")
    command = add_command(
        actions,
        "explain",
        "say whether a keep may connect to a URL, rule by rule",
        _explain,
        examples=(
            "keepctl egress explain prices https://api.example.com/v1",
            "keepctl egress explain prices db.example.com:5432",
            "keepctl egress explain --spec spec.json https://api.example.com --method POST --address 10.0.0.7",
        ),
        details="The keep resolves the name and checks its addresses, but connects to nobody. With --spec nobody is\n"
        "asked: FILE is a spec, its `network`, or what `keepctl show --json` says; --address stands for what the name\n"
        "would resolve to. Exit status: 0 allowed, 1 denied.",
    )
    command.add_argument("keep", metavar="KEEP", nargs="?", help="id or name")
    command.add_argument("url", metavar="URL", help="or HOST:PORT")
    command.add_argument("--spec", metavar="FILE", type=Path, help="read the policy from here instead")
    command.add_argument("--method", metavar="M", help="of an HTTP request (default: for any connection)")
    command.add_argument(
        "--address", metavar="IP", action="append", default=[], help="with --spec: what the host resolves to"
    )
    add_policy_option(command)


def _explain(options: argparse.Namespace) -> int:
    if (options.keep is None) == (options.spec is None):
        raise InvalidArgumentError("whose policy? name a keep before the URL, or give --spec FILE")
    explanation = _asked(options) if options.spec is None else _from_file(options)
    if options.json:
        show_json(explanation)
    else:
        _show(explanation)
    return 0 if explanation.decision.allowed else DENIED


def _asked(options: argparse.Namespace) -> EgressExplanation:
    if options.address:
        raise InvalidArgumentError("--address goes with --spec: a keep finds out itself what a name resolves to")
    deployment = Deployment.from_options(options)
    with deployment.connect() as manager, open_keep(manager, deployment, options.keep, options.policy) as keep:
        return keep.explain_egress(options.url, method=options.method)


def _from_file(options: argparse.Namespace) -> EgressExplanation:
    policy = EgressPolicy.of(network_from(options.spec).egress)
    try:
        target = parse_target(options.url, options.method)
        addresses = tuple(map(canonical_address, options.address)) or None
    except EgressError as error:
        raise InvalidArgumentError(str(error)) from error
    return EgressExplanation(explain(policy, target, addresses), None)


def network_from(file: Path) -> NetworkPolicy:
    """The network policy in a file, whether or not a spec is around it. Raises `InvalidArgumentError`."""
    try:
        document: Any = msgspec.json.decode(file.read_bytes())
        for name in ("spec", "network"):
            if isinstance(document, dict) and name in document:
                document = document[name]
        return msgspec.convert(document, NetworkPolicy)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"{file} holds no network policy: {error}") from error


def _show(explanation: EgressExplanation) -> None:
    decision = explanation.decision
    host = f"[{decision.host}]" if ":" in decision.host else decision.host
    show_fields(
        {
            "target": f"{decision.method or 'any connection'} to {host}:{decision.port}",
            "addresses": " ".join(decision.addresses) or None,
            "decision": "allowed" if decision.allowed else "denied",
            "rule": decision.rule,
            "reason": decision.reason,
            "not known": explanation.problem,
        }
    )
    if decision.tried:
        print()
        show_table(
            ("RULE", "APPLIES", "WHY"),
            [(tried.rule, "yes" if tried.applies else "no", tried.reason) for tried in decision.tried],
        )
