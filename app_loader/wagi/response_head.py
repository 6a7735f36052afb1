"""The header block with which a command begins its answer; RFC 3875, section 6, read strictly."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from app_loader.wasi_http.errors import ErrorResult
from app_loader.wasi_http.fields import check_name, checked_value
from app_loader.wasi_http.frames import Headers

MAX_HEAD: Final = 128 * 1024
"""Bytes of a header block, as many as a component's headers may have."""

_END: Final = re.compile(rb"\r?\n\r?\n")
_LONGEST_END: Final = 4
_STATUS: Final = re.compile(rb"([2-5][0-9]{2})(?: [\x20-\x7e\x80-\xff]*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CGI_FIELDS: Final = frozenset({"content-length", "content-type", "location", "status"})


class HeadError(ValueError):
    """What a command wrote is no header block."""


class Head(NamedTuple):
    """A parsed header block."""

    status: int
    headers: Headers
    content_length: int | None


class HeadReader:
    """Finds the end of the block in pieces, and looks at each byte once: guests may write single ones."""

    def __init__(self) -> None:
        self._written = bytearray()

    def add(self, piece: bytes) -> tuple[bytes, bytes] | None:
        """The block and what follows it; None while its end has not come. Raises `HeadError` if it is too long."""
        start = max(0, len(self._written) - _LONGEST_END + 1)
        self._written += piece
        end = _END.search(self._written, start)
        if (len(self._written) if end is None else end.start()) > MAX_HEAD:
            raise HeadError(f"the header block has more than {MAX_HEAD} bytes")
        return None if end is None else (bytes(self._written[: end.start()]), bytes(self._written[end.end() :]))


def parse_head(block: bytes) -> Head:
    """Status and headers. Raises `HeadError`."""
    given: dict[str, bytes] = {}
    headers: list[tuple[str, bytes]] = []
    for line in re.split(rb"\r?\n", block):
        name, value = _field(line)
        if name in _CGI_FIELDS:
            if name in given:
                raise HeadError(f"`{name}` is there twice")
            given[name] = value
        if name != "status":
            headers.append((name, value))
    if not given.keys() & {"content-type", "location", "status"}:
        raise HeadError("there is none of `Content-Type`, `Location` and `Status`")
    return Head(_status(given), tuple(headers), _content_length(given))


def _field(line: bytes) -> tuple[str, bytes]:
    name, colon, value = line.partition(b":")
    try:
        if not colon:
            raise HeadError(f"a line without a colon: {line[:64]!a}")
        # Not white space around it either: RFC 9112, section 5.1.
        text = name.decode("ascii").lower()
        check_name(text)
        return text, checked_value(value)
    except (ErrorResult, UnicodeDecodeError):
        raise HeadError(f"a header that cannot be sent: {line[:64]!a}") from None


def _status(given: dict[str, bytes]) -> int:
    status = given.get("status")
    if status is None:
        if given.get("location", b"").startswith(b"/"):
            # RFC 3875, section 6.2.2: the server is to answer as if that path had been asked for, which may be the
            # keep's own. Sent on as it is, it would lead clients of /v1/http/ astray.
            raise HeadError(
                "a `Location` that is a path is a local redirect, which is not done: add `Status: 302 Found`"
            )
        return 302 if "location" in given else 200
    if (match := _STATUS.fullmatch(status)) is None:
        raise HeadError(f"`Status` is {status[:64]!a}, not a number from 200 to 599 and a reason")
    return int(match[1])


def _content_length(given: dict[str, bytes]) -> int | None:
    length = given.get("content-length")
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise HeadError(f"`Content-Length` is {length[:64]!a}")
    return int(length)
