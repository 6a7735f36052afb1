"""What somebody wants to connect to: from a URL, from `HOST:PORT`, or from a host and a port."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from keep_protocol.egress.errors import TargetError
from keep_protocol.egress.hosts import Host, canonical_host, shown

DEFAULT_PORTS: Final = {"https": 443, "http": 80, "wss": 443, "ws": 80}

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_MAX_TEXT: Final = 8192


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody to connect to. `method` is that of an HTTP request, in upper case; None: another connection."""

    host: Host
    port: int
    method: str | None = None

    def __str__(self) -> str:
        host = str(self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def target_of(host: str, port: int, method: str | None = None) -> Target:
    """The target with this host, in any spelling. Raises `HostError` or `TargetError`."""
    if not 1 <= port <= 65535:
        raise TargetError(f"{port} is not a port from 1 to 65535")
    if method is not None and not _METHOD.fullmatch(method):
        raise TargetError(f"{shown(method)} is not a method of HTTP")
    # Servers differ in whether `post` is POST; rules must not.
    return Target(canonical_host(host), port, None if method is None else method.upper())


def parse_target(text: str, method: str | None = None) -> Target:
    """The target of a URL with a host, or of `HOST:PORT`. Raises `HostError` or `TargetError`.

    What some programs read one way and some another is refused: user names, backslashes, blanks, control characters.
    """
    if len(text) > _MAX_TEXT:
        raise TargetError(f"the URL has {len(text)} characters, at most {_MAX_TEXT} are read")
    if any(character <= " " or character in "\\\x7f" for character in text):
        raise TargetError(f"{shown(text)} has a backslash, a blank or a control character")
    if not (scheme := _SCHEME.match(text)):
        return parse_authority(text, None, method)
    port = DEFAULT_PORTS.get(scheme[1].lower())
    authority = re.split(r"[/?#]", text[scheme.end() :], maxsplit=1)[0]
    return parse_authority(authority, port, method)


def parse_authority(text: str, default_port: int | None, method: str | None = None) -> Target:
    """The target of `HOST[:PORT]` (RFC 3986, 3.2), without a user name. Raises `HostError` or `TargetError`."""
    if "@" in text:
        raise TargetError(f"{shown(text)} names a user before `@`; only what follows would be connected to: write that")
    host, port = _split(text)
    if port is None:
        if default_port is None:
            raise TargetError(f"{shown(text)} names no port; write HOST:PORT or a URL")
        return target_of(host, default_port, method)
    if not _PORT.fullmatch(port):
        raise TargetError(f"{shown(text)}: {shown(port)} is not a port from 1 to 65535")
    return target_of(host, int(port), method)


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise TargetError(f"{shown(text)}: after an address in brackets stands `:PORT`, or nothing")
        return host + bracket, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise TargetError(f"{shown(text)} has several colons; IPv6 addresses stand in brackets")
    return host, port if colon else None
