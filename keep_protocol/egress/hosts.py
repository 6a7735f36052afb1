"""One spelling for every host: lower case, no trailing dot, ASCII (UTS 46), addresses as addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Final, TypeAlias

from keep_protocol.egress.errors import HostError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Host: TypeAlias = str | Address
"""A canonical name, or an address."""

MAX_NAME: Final = 253

_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# What the WHATWG's URL standard takes for the end of an IPv4 address, and inet_aton(3) too.
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def canonical_host(text: str) -> Host:
    """The host that `text` names, in the only spelling that rules are compared with. Raises `HostError`.

    IPv6 addresses may stand in brackets. IPv4 addresses in other spellings than four decimal numbers are refused: of
    `010.0.0.1` resolvers make different hosts.
    """
    if text.startswith("["):
        if not text.endswith("]"):
            raise HostError(f"{shown(text)} has a bracket that is not closed")
        return canonical_address(text[1:-1])
    if ":" in text:
        return canonical_address(text)
    name = _ascii(text).lower()
    labels = name.removesuffix(".").split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        return _dotted(text, ".".join(labels))
    return canonical_name(labels, text)


def canonical_name(labels: list[str], text: str) -> str:
    """The name made of `labels`, of which each is checked; `text` is what was written. Raises `HostError`."""
    for label in labels:
        if not _LABEL.fullmatch(label):
            what = f"the label {shown(label)}" if label else "an empty label"
            raise HostError(f"{shown(text)} has {what}; labels are 1 to 63 of a-z 0-9 - _, no hyphen first or last")
    name = ".".join(labels)
    if len(name) > MAX_NAME:
        raise HostError(f"{shown(text)} has {len(name)} characters, names have at most {MAX_NAME}")
    return name


def canonical_address(text: str) -> Address:
    """The address that `text` is; IPv4 inside of IPv6 (`::ffff:a.b.c.d`) is IPv4. Raises `HostError`."""
    if "%" in text:
        raise HostError(f"{shown(text)} has a zone, which names an interface of one machine")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise HostError(f"{shown(text)} is not an IP address") from None
    return unmapped(address)


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, else the same."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def shown(text: str) -> str:
    """`text` for a message: quoted, and no longer than a line."""
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _ascii(text: str) -> str:
    if not text:
        raise HostError("the host is empty")
    if text.isascii():
        return text
    # Half a megabyte of tables, for names that are rare.
    import idna

    try:
        return idna.encode(text, uts46=True, transitional=False, std3_rules=True).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise HostError(f"{shown(text)} is not a host name: {error}") from None


def _dotted(text: str, name: str) -> Address:
    try:
        return ipaddress.IPv4Address(name)
    except ValueError:
        pass
    try:
        meant = ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, ValueError):  # the latter for NUL
        raise HostError(f"{shown(text)} ends with a number, and is not an IPv4 address") from None
    raise HostError(f"{shown(text)} is a spelling of an address that not everybody reads alike; write {meant} if meant")
