"""Fuzzes rules and targets of egress policies, and decides about every pair that is accepted."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["keep_protocol.egress"]):
    from keep_protocol.egress.addresses import AddressKind, kind_of
    from keep_protocol.egress.decision import explain
    from keep_protocol.egress.errors import EgressError
    from keep_protocol.egress.hosts import canonical_host
    from keep_protocol.egress.rule_text import parse_rule
    from keep_protocol.egress.rules import EgressPolicy, rule_text
    from keep_protocol.egress.targets import parse_target

from keep_protocol.network_policy import Egress, NetworkPolicy


def target(data: bytes) -> None:
    first, _, second = data.decode(errors="replace").partition("\n")
    try:
        rule = parse_rule(first)
        policy = NetworkPolicy(listen=(), egress=Egress(allow=(rule,), deny=()))
    except EgressError:
        return
    assert parse_rule(rule_text(rule)) == rule
    try:
        wanted = parse_target(second)
    except EgressError:
        return
    assert canonical_host(str(wanted.host)) == wanted.host
    decision = explain(EgressPolicy.of(policy.egress), wanted)
    if decision.allowed and not isinstance(wanted.host, str):
        assert rule.private or kind_of(wanted.host) is AddressKind.PUBLIC


def main() -> None:
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
