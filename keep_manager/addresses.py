"""The names and addresses of this host, for its server certificate."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path

_FIB_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")
_DNS_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


def host_names() -> tuple[str, ...]:
    """Host name, fully qualified name, every address of every interface, and the loopback ones; no duplicates."""
    names = [socket.gethostname(), socket.getfqdn(), *_addresses(), "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(name for name in names if is_host(name)))


def is_host(text: str) -> bool:
    """Whether `text` is an IP address or a DNS name as certificates can carry it."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _DNS_NAME.fullmatch(text) is not None and ".." not in text
    return True


def _addresses() -> list[str]:
    """Of all interfaces, from proc(5): a host may have many, and its name resolves to few of them."""
    addresses: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    try:
        addresses.update(
            ipaddress.ip_address(text) for text in _FIB_LOCAL.findall(Path("/proc/net/fib_trie").read_text())
        )
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            addresses.add(ipaddress.IPv6Address(bytes.fromhex(line.split()[0])))
    except FileNotFoundError:
        pass  # IPv6 is switched off, or /proc is restricted: the names and --host remain
    # Link-local addresses are of no use without an interface's name.
    return sorted(str(address) for address in addresses if not address.is_link_local and not address.is_loopback)
