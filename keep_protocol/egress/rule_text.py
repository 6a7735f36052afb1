"""Reads rules as people write them: `https://api.example.com`, `**.example.com:443,8443`, `10.0.0.0/8:5432+private`."""

from __future__ import annotations

import re
from typing import Final

from keep_protocol.egress.errors import RuleError
from keep_protocol.egress.hosts import shown
from keep_protocol.egress.patterns import parse_pattern
from keep_protocol.network_policy import EVERY_PORT, EgressRule, PortRange

RULE_SYNTAX: Final = "[http://|https://]HOST[:PORT,FIRST-LAST…|:*][+private][+METHOD…]"

_SCHEME_PORTS: Final = {"https://": 443, "http://": 80}
_DEFAULT_PORT: Final = 443
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}", re.ASCII)


def parse_rule(text: str) -> EgressRule:
    """The rule that `text` says, in canonical form. Without ports it is for 443. Raises `EgressError`."""
    rest, *options = text.split("+")
    port = _DEFAULT_PORT
    for scheme, scheme_port in _SCHEME_PORTS.items():
        if rest.lower().startswith(scheme):
            rest, port = rest[len(scheme) :].removesuffix("/"), scheme_port
            if "/" in rest:
                raise RuleError(f"{shown(text)}: rules are about hosts and not about paths; end it after the host")
    if "@" in rest or "://" in rest:
        raise RuleError(f"{shown(text)} is not a rule; expected {RULE_SYNTAX}")
    host, ports = _split(rest, text)
    return EgressRule(
        host=str(parse_pattern(host)),
        ports=(port,) if ports is None else _ports(ports, text),
        methods=_methods([option for option in options if option != "private"], text),
        private="private" in options,
    )


def _split(rest: str, text: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        host, bracket, after = rest.partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise RuleError(f"{shown(text)}: after an address in brackets stands `:PORTS`, or nothing")
        return host[1:], after[1:] if after else None
    host, colon, ports = rest.partition(":")
    if ":" in ports:
        raise RuleError(f"{shown(text)} has several colons; IPv6 addresses and networks stand in brackets")
    return host, ports if colon else None


def _ports(ports: str, text: str) -> tuple[int | PortRange, ...]:
    if ports == "*":
        return (EVERY_PORT,)
    found: list[int | PortRange] = []
    for part in ports.split(","):
        matched = _RANGE.fullmatch(part)
        if not matched or not all(1 <= int(number) <= 65535 for number in matched.groups() if number):
            raise RuleError(f"{shown(text)}: {shown(part)} is no port from 1 to 65535, and no range FIRST-LAST of them")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if first > last:
            raise RuleError(f"{shown(text)}: the range {first}-{last} ends before it begins")
        found.append(first if first == last else PortRange(first, last))
    return tuple(found)


def _methods(options: list[str], text: str) -> tuple[str, ...] | None:
    for option in options:
        if not _METHOD.fullmatch(option):
            raise RuleError(f"{shown(text)}: after `+` stands `private` or a method such as GET, not {shown(option)}")
    return tuple(options) or None
