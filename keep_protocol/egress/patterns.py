"""Patterns of hosts: names with wildcards for whole labels, addresses, networks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, TypeAlias

from keep_protocol.egress.errors import HostError, RuleError
from keep_protocol.egress.hosts import Address, Host, canonical_address, canonical_host, canonical_name, shown

ONE_LABEL: Final = "*"
ANY_LABELS: Final = "**"

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Names by their labels, compared from the right: `*` is exactly one, `**` one or more."""

    labels: tuple[str, ...]

    def matches(self, host: Host) -> bool:
        """Whether it is such a name; addresses have none."""
        return isinstance(host, str) and matches_labels(self.labels, tuple(host.split(".")))

    def covers(self, other: HostPattern) -> bool:
        """Whether it matches all that `other` matches."""
        # What a `**` stands for is at least one label, which of the wildcards only another `**` always matches.
        return isinstance(other, NamePattern) and matches_labels(self.labels, other.labels)

    def __str__(self) -> str:
        return ".".join(self.labels)


@dataclass(frozen=True, slots=True)
class NetworkPattern:
    """Addresses of one network; a single one is a network of its own."""

    network: IpNetwork

    def matches(self, host: Host) -> bool:
        """Whether it is such an address; a name is none, whatever it resolves to."""
        return not isinstance(host, str) and self.contains(host)

    def contains(self, address: Address) -> bool:
        """Whether an address is in it; one of the other version never is."""
        return address in self.network

    def covers(self, other: HostPattern) -> bool:
        """Whether it matches all that `other` matches."""
        if not isinstance(other, NetworkPattern) or self.network.version != other.network.version:
            return False
        return other.network.network_address in self.network and self.network.prefixlen <= other.network.prefixlen

    def __str__(self) -> str:
        single = self.network.prefixlen == self.network.max_prefixlen
        return str(self.network.network_address if single else self.network)


HostPattern: TypeAlias = NamePattern | NetworkPattern


def matches_labels(pattern: tuple[str, ...], labels: tuple[str, ...]) -> bool:
    """Whether labels match a pattern's, from the right to the left.

    At a `**` it is decided, if a label is left: what a pattern has to the left of it does not count.
    """
    for index in range(1, len(pattern) + 1):
        if index > len(labels):
            return False
        wanted, label = pattern[-index], labels[-index]
        if wanted == ANY_LABELS:
            return True
        if label == ANY_LABELS or (wanted != ONE_LABEL and wanted != label):
            return False
    return len(pattern) == len(labels)


def parse_pattern(text: str) -> HostPattern:
    """The pattern that a user wrote, in any spelling of its hosts. Raises `HostError` or `RuleError`."""
    if "/" in text or ":" in text or text.startswith("["):
        return NetworkPattern(_network(text.removeprefix("[").removesuffix("]")))
    if ONE_LABEL not in text:
        host = canonical_host(text)
        return NamePattern(tuple(host.split("."))) if isinstance(host, str) else _single(host)
    return NamePattern(_labels(text))


def canonical_pattern(text: str) -> HostPattern:
    """The pattern of a rule in a spec, which is written in its one canonical way. Raises `HostError` or `RuleError`."""
    pattern = parse_pattern(text)
    if str(pattern) != text:
        raise RuleError(f"{shown(text)} is not in canonical form: write {shown(str(pattern))}")
    return pattern


def _labels(text: str) -> tuple[str, ...]:
    labels = text.removesuffix(".").split(".")
    wild = [label in (ONE_LABEL, ANY_LABELS) for label in labels]
    for label, is_wild in zip(labels, wild, strict=True):
        if not is_wild and ONE_LABEL in label:
            raise RuleError(f"{shown(text)}: `*` stands for whole labels, and {shown(label)} would match nothing")
    if ANY_LABELS in labels[1:]:
        raise RuleError(f"{shown(text)}: what stands to the left of `**` would not count; begin with `**`")
    if (
        wild[-1]
        and all(is_wild or label.isdigit() for label, is_wild in zip(labels, wild, strict=True))
        and len(labels) > 1
    ):
        raise RuleError(f"{shown(text)}: addresses have no wildcards; write a network, such as 10.0.0.0/8")
    # Wildcards are no labels of a name, so something stands for them while the rest is put into canonical form.
    name = canonical_host(".".join("x" if is_wild else label for label, is_wild in zip(labels, wild, strict=True)))
    assert isinstance(name, str), "an x is no part of an address"
    found = name.split(".")
    if len(found) != len(labels):
        raise HostError(f"{shown(text)} has dots that are not ASCII")
    return tuple(
        label if is_wild else canonical_name([part], text)
        for label, part, is_wild in zip(labels, found, wild, strict=True)
    )


def _network(text: str) -> IpNetwork:
    address, slash, prefix = text.partition("/")
    if not slash:
        return _single(canonical_address(address)).network
    if not prefix.isascii() or not prefix.isdigit():
        raise HostError(f"{shown(text)}: after `/` stands the number of bits that count, such as 10.0.0.0/8")
    try:
        network = ipaddress.ip_network(f"{address}/{int(prefix)}", strict=False)
    except ValueError:
        raise HostError(f"{shown(text)} is neither a network nor an address") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((inner, network.prefixlen - 96))
    return network


def _single(address: Address) -> NetworkPattern:
    return NetworkPattern(ipaddress.ip_network(address))
