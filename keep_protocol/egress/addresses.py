"""Which addresses are not those of public hosts: the registries of special addresses, and the metadata of clouds."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Final

from keep_protocol.egress.hosts import Address, unmapped


class AddressKind(StrEnum):
    """What an address is for, by RFC 6890 and its registries."""

    PUBLIC = "public"
    UNSPECIFIED = "unspecified"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    CARRIER_GRADE_NAT = "carrier-grade NAT"
    METADATA = "cloud metadata"
    TRANSLATED = "translated"
    """IPv6 that routers or hosts turn into IPv4: Teredo, 6to4, local NAT64."""
    DOCUMENTATION = "documentation"
    MULTICAST = "multicast"
    RESERVED = "reserved"

    @property
    def can_be_allowed(self) -> bool:
        """Whether a rule with `private` covers it; the others are no hosts."""
        return self not in {AddressKind.UNSPECIFIED, AddressKind.MULTICAST, AddressKind.RESERVED}


_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            # AWS, Azure, Google, OpenStack; ECS tasks; EKS pods; Alibaba; Azure's host agent; IPv6 of AWS and Google.
            *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16"),
            *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
        ),
    )
)

_TABLE: Final = tuple(
    (ipaddress.ip_network(network), kind)
    for kind, networks in {
        AddressKind.UNSPECIFIED: ("0.0.0.0/8", "::/128"),
        AddressKind.LOOPBACK: ("127.0.0.0/8", "::1/128"),
        AddressKind.PRIVATE: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
        AddressKind.LINK_LOCAL: ("169.254.0.0/16", "fe80::/10"),
        AddressKind.CARRIER_GRADE_NAT: ("100.64.0.0/10",),
        AddressKind.TRANSLATED: ("192.88.99.0/24", "64:ff9b:1::/48", "2001::/32", "2002::/16"),
        AddressKind.DOCUMENTATION: (
            *("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "192.0.0.0/24"),
            *("2001:db8::/32", "3fff::/20", "2001:2::/48", "100::/64"),
        ),
        AddressKind.MULTICAST: ("224.0.0.0/4", "ff00::/8"),
        # Of IPv6 only 2000::/3 is given out, but for protocols at its begin; what else is used is named above.
        AddressKind.RESERVED: ("240.0.0.0/4", "2001::/23", "::/3", "4000::/2", "8000::/1"),
    }.items()
    for network in networks
)

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def kind_of(address: Address) -> AddressKind:
    """What an address is for. Of `::ffff:a.b.c.d` and `64:ff9b::a.b.c.d` (RFC 6052) it is what `a.b.c.d` is for."""
    address = unmapped(address)
    if address in _NAT64:
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _METADATA:
        return AddressKind.METADATA
    for network, kind in _TABLE:
        if address in network:
            return kind
    return AddressKind.PUBLIC
