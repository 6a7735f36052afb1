"""The rules of a spec, read once, to be compared with many targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from keep_protocol.egress.addresses import AddressKind, kind_of
from keep_protocol.egress.errors import EgressError, RuleError
from keep_protocol.egress.hosts import Address
from keep_protocol.egress.patterns import HostPattern, NetworkPattern, canonical_pattern
from keep_protocol.egress.targets import Target
from keep_protocol.network_policy import EVERY_PORT, Egress, EgressRule, PortRange

ALLOW: Final = "allow"
DENY: Final = "deny"


@dataclass(frozen=True)
class CompiledRule:
    """One rule, with its place in the spec."""

    list_name: str
    index: int
    rule: EgressRule
    pattern: HostPattern
    ports: tuple[PortRange, ...]

    @cached_property
    def name(self) -> str:
        """Its place and its text: `allow[0] **.example.com:443`."""
        return f"{self.list_name}[{self.index}] {rule_text(self.rule)}"

    def refuses_to_apply(self, target: Target) -> str | None:
        """Why an allowing rule is not about `target`, or None when it is."""
        if not self.pattern.matches(target.host):
            return f"the host is not {self.rule.host}"
        if (reason := self._other_port(target.port)) is not None:
            return reason
        if self.rule.methods is None or target.method in self.rule.methods:
            return None
        methods = ", ".join(self.rule.methods)
        return f"the method is {target.method}, not {methods}" if target.method else f"it is for HTTP: {methods}"

    def forbids(self, target: Target, addresses: Sequence[Address]) -> str | None:
        """Why a denying rule is about `target`, or one of its addresses; None when it is not."""
        if self.pattern.matches(target.host):
            about = "it names the host"
        elif found := [address for address in addresses if self._contains(address)]:
            about = f"the host resolves to {found[0]}, which it names"
        else:
            return None
        if self._other_port(target.port) is not None:
            return None
        # A connection that is not known to be HTTP may carry any request.
        if self.rule.methods is None or target.method is None or target.method in self.rule.methods:
            return about
        return None

    def refuses_address(self, address: Address) -> str | None:
        """Why an allowing rule does not let the host have `address`, or None when it does."""
        kind = kind_of(address)
        if kind is AddressKind.PUBLIC or (self.rule.private and kind.can_be_allowed):
            return None
        if not kind.can_be_allowed:
            return f"{address} is {kind}, which no host has"
        return f"{address} is {kind}, and the rule does not say `private`"

    def _contains(self, address: Address) -> bool:
        return isinstance(self.pattern, NetworkPattern) and self.pattern.contains(address)

    def _other_port(self, port: int) -> str | None:
        if any(ports.first <= port <= ports.last for ports in self.ports):
            return None
        return f"the port is not {ports_text(self.ports)}"


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """The rules of one spec."""

    allow: tuple[CompiledRule, ...]
    deny: tuple[CompiledRule, ...]

    @classmethod
    def of(cls, egress: Egress) -> EgressPolicy:
        """The rules, each checked by itself. Raises `EgressError` that names the field."""
        return cls(tuple(_compiled(ALLOW, egress.allow)), tuple(_compiled(DENY, egress.deny)))


def port_ranges(rule: EgressRule) -> tuple[PortRange, ...]:
    """The ports of a rule, each as a range."""
    return tuple(PortRange(port, port) if isinstance(port, int) else port for port in rule.ports)


def ports_text(ports: Iterable[PortRange]) -> str:
    """Ports as in the text of a rule: `443,8000-8010`."""
    return ",".join(str(part.first) if part.first == part.last else f"{part.first}-{part.last}" for part in ports)


def rule_text(rule: EgressRule) -> str:
    """A rule as people write it: `HOST:PORTS`, then `+private` and `+METHOD`."""
    host = f"[{rule.host}]" if ":" in rule.host else rule.host
    ports = "*" if rule.ports == (EVERY_PORT,) else ports_text(port_ranges(rule))
    private = ["+private"] if rule.private else []
    return "".join((f"{host}:{ports}", *private, *(f"+{method}" for method in rule.methods or ())))


def _compiled(list_name: str, rules: Sequence[EgressRule]) -> Iterable[CompiledRule]:
    for index, rule in enumerate(rules):
        field = f"egress.{list_name}[{index}]"
        try:
            pattern = canonical_pattern(rule.host)
        except EgressError as error:
            raise RuleError(f"`{field}.host`: {error}") from None
        ports = port_ranges(rule)
        for part in ports:
            if part.first > part.last:
                raise RuleError(f"`{field}.ports`: the range {part.first}-{part.last} ends before it begins")
        if rule.methods is not None and len(set(rule.methods)) != len(rule.methods):
            raise RuleError(f"`{field}.methods` names a method twice")
        if rule.private and list_name == DENY:
            raise RuleError(f"`{field}.private` is for `allow`; what is denied is denied at every address")
        yield CompiledRule(list_name, index, rule, pattern, ports)
