"""`fields` of wasi:http: headers and trailers, and which ones a guest may set."""

from __future__ import annotations

import re
from collections.abc import Iterable

from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.frames import Headers
from app_loader.wasi_http.resources import Resource

MAX_FIELDS = 128 * 1024
"""Bytes of names and values in one `fields`; each entry counts 32 more."""

FORBIDDEN = frozenset(
    {
        "connection",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Of one connection, not of the message (RFC 9110, section 7.6.1), or given otherwise, as `authority`."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,1024}", re.ASCII)
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_ENTRY_COST = 32


class Fields(Resource):
    """Names with their values, in order."""

    def __init__(self, entries: Iterable[tuple[str, bytes]] = (), *, frozen: bool = False) -> None:
        self.entries = list(entries)
        self.frozen = frozen
        """Whether a guest's changes are refused."""

    def get(self, name: str) -> list[bytes]:
        """The values of all entries with this name."""
        wanted = name.lower()
        return [value for each, value in self.entries if each.lower() == wanted]

    def set(self, name: str, values: Iterable[bytes]) -> None:
        """Replace all entries with this name. Raises `ErrorResult`, `GuestFaultError`."""
        self._check_change(name)
        self._replace(name, [(name, checked_value(value)) for value in values])

    def append(self, name: str, value: bytes) -> None:
        """Add an entry. Raises `ErrorResult`, `GuestFaultError`."""
        self._check_change(name)
        self.entries.append((name, checked_value(value)))
        self.check_size()

    def delete(self, name: str) -> None:
        """Remove all entries with this name. Raises `ErrorResult`."""
        self._check_change(name)
        self._replace(name, [])

    def check_size(self) -> None:
        """Raise `GuestFaultError` if it has grown too large."""
        size = sum(len(name) + len(value) + _ENTRY_COST for name, value in self.entries)
        if size > MAX_FIELDS:
            raise GuestFaultError(f"fields of {size} bytes are too large, {MAX_FIELDS} are possible")

    def _check_change(self, name: str) -> None:
        if self.frozen:
            raise ErrorResult(("immutable", None))
        check_name(name)

    def _replace(self, name: str, entries: list[tuple[str, bytes]]) -> None:
        wanted = name.lower()
        self.entries = [entry for entry in self.entries if entry[0].lower() != wanted] + entries
        self.check_size()


def check_name(name: str) -> None:
    """Raise `ErrorResult` with a `header-error` for a name that no guest may set."""
    if not _TOKEN.fullmatch(name):
        raise ErrorResult(("invalid-syntax", None))
    if name.lower() in FORBIDDEN:
        raise ErrorResult(("forbidden", None))


def checked_value(value: bytes) -> bytes:
    """The value without white space around it. Raises `ErrorResult` with a `header-error`."""
    trimmed = value.strip(b" \t")
    if not _VALUE.fullmatch(trimmed):
        raise ErrorResult(("invalid-syntax", None))
    return trimmed


def permitted(headers: Iterable[tuple[str, bytes]]) -> Headers:
    """Those that are meant for the other end, also none that `connection` names (RFC 9110, section 7.6.1)."""
    listed = tuple(headers)
    named = {
        option.strip().lower()
        for name, value in listed
        if name.lower() == "connection"
        for option in value.decode("latin-1").split(",")
    }
    return tuple((name, value) for name, value in listed if name.lower() not in FORBIDDEN | named)


def content_length(headers: Iterable[tuple[str, bytes]]) -> int | None:
    """What `content-length` says, if it is there. Raises `GuestFaultError` unless it is one number."""
    found = {value for name, value in headers if name.lower() == "content-length"}
    if not found:
        return None
    value = found.pop()
    if found or not re.fullmatch(rb"[0-9]{1,18}", value):
        raise GuestFaultError("content-length is not one number")
    return int(value)
