"""Refuses lists of rules that cannot all be meant: what is allowed and wholly denied, and what is said twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from keep_protocol.egress.errors import ContradictionError
from keep_protocol.egress.rules import CompiledRule, EgressPolicy
from keep_protocol.network_policy import Egress, PortRange


def check_rules(egress: Egress) -> None:
    """Raises `EgressError`: a rule is malformed, stands twice, or allows only what others deny."""
    policy = EgressPolicy.of(egress)
    for rules in (policy.allow, policy.deny):
        for first, second in combinations(rules, 2):
            if first.rule == second.rule:
                raise ContradictionError(f"`{first.name}` stands there again as `{second.name}`; leave one out")
    for rule in policy.allow:
        if shadowing := denied_by(rule, policy.deny):
            names = "`, `".join(other.name for other in shadowing)
            raise ContradictionError(
                f"`{rule.name}` allows nothing that `{names}` {'does' if len(shadowing) == 1 else 'do'} not deny; "
                "leave one of them out"
            )


def denied_by(rule: CompiledRule, deny: Sequence[CompiledRule]) -> list[CompiledRule]:
    """The denying rules that together leave nothing of an allowing one; empty when something is left."""
    candidates = [other for other in deny if other.pattern.covers(rule.pattern) and _denies_methods(other, rule)]
    needed: list[CompiledRule] = []
    left = list(rule.ports)
    for other in candidates:
        remaining = _without(left, other.ports)
        if remaining != left:
            needed.append(other)
        left = remaining
    return [] if left else needed


def _denies_methods(denying: CompiledRule, allowing: CompiledRule) -> bool:
    if denying.rule.methods is None:
        return True
    # Without methods, what is allowed are those that the other rule does not name.
    return allowing.rule.methods is not None and set(allowing.rule.methods) <= set(denying.rule.methods)


def _without(ranges: Iterable[PortRange], taken: Iterable[PortRange]) -> list[PortRange]:
    left = list(ranges)
    for hole in taken:
        parts = [
            part
            for whole in left
            for part in (
                PortRange(whole.first, min(whole.last, hole.first - 1)),
                PortRange(max(whole.first, hole.last + 1), whole.last),
            )
        ]
        left = [part for part in parts if part.first <= part.last]
    return left
