"""Decides whether a keep may connect to somebody, and says why, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence

from keep_protocol.egress.hosts import Address, unmapped
from keep_protocol.egress.rules import ALLOW, CompiledRule, EgressPolicy
from keep_protocol.egress.targets import Target
from keep_protocol.network_api import Decision, RuleTried


def explain(policy: EgressPolicy, target: Target, addresses: Sequence[Address] | None = None) -> Decision:
    """What `policy` says of `target` when it resolves to `addresses`; None: it has not been resolved yet.

    A rule of `deny` wins over all of `allow`. All addresses must be admitted by one rule that allows the target: which
    of them is connected to is not for the policy to say.
    """
    if not isinstance(target.host, str):
        addresses = (target.host,)
    checked = tuple(map(unmapped, addresses or ()))
    denying = [_tried(rule, rule.forbids(target, checked)) for rule in policy.deny]
    allowing = [_asked(rule, target, checked) for rule in policy.allow]
    decisive = next((tried for tried in (*denying, *allowing) if tried.applies), None)
    if addresses is not None and not checked:
        decisive, allowed, reason = None, False, "the host has no addresses"
    elif decisive is None:
        allowed, reason = False, _why_none(allowing)
    else:
        allowed = decisive.rule.startswith(ALLOW)
        reason = "" if allowed else decisive.reason
    if allowed:
        reason = "allowed" if checked else "allowed, if all addresses of the host are"
    return Decision(
        allowed=allowed,
        host=str(target.host),
        port=target.port,
        method=target.method,
        addresses=tuple(map(str, checked)),
        rule=None if decisive is None else decisive.rule,
        reason=reason,
        tried=(*denying, *allowing),
    )


def _tried(rule: CompiledRule, about: str | None) -> RuleTried:
    return RuleTried(rule.name, about is not None, about or "it is about something else")


def _asked(rule: CompiledRule, target: Target, addresses: Sequence[Address]) -> RuleTried:
    if (reason := rule.refuses_to_apply(target)) is not None:
        return RuleTried(rule.name, False, reason)
    for address in addresses:
        if (reason := rule.refuses_address(address)) is not None:
            return RuleTried(rule.name, False, reason)
    return RuleTried(rule.name, True, "it allows the target")


def _why_none(allowing: Sequence[RuleTried]) -> str:
    """The reason of the rule that comes nearest: one that is about the host says more than those that are not."""
    if not allowing:
        return "the spec allows no egress"
    nearest = next((tried for tried in allowing if not tried.reason.startswith("the host is not ")), None)
    return "no rule of `allow` is about it" if nearest is None else f"{nearest.rule}: {nearest.reason}"
