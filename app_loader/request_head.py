"""What a keep takes as the head of an HTTP request, beyond what h11 demands."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

import h11

from keep_protocol.errors import ErrorCode, RefusalError

MAX_HEAD: Final = 32 * 1024
"""Bytes of a request's target and headers."""
MAX_HEADERS: Final = 100

_HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%_-]+\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]*)?", re.ASCII)
"""RFC 9110, section 7.2; a host with a user before it is none."""


def unreadable(error: h11.RemoteProtocolError) -> RefusalError:
    """The refusal of a head that h11 gave up on."""
    if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
        return _too_large()
    return RefusalError(ErrorCode.BAD_REQUEST, f"this is no HTTP/1.1 request: {error}")


def _too_large() -> RefusalError:
    detail = f"the target and the headers of a request have at most {MAX_HEAD} bytes"
    return RefusalError(ErrorCode.HEAD_TOO_LARGE, detail, remedy="send larger things in the body")


def check_head(head: h11.Request) -> None:
    """Raise `RefusalError` for what h11 lets pass."""
    if len(head.headers) > MAX_HEADERS:
        detail = f"a request has at most {MAX_HEADERS} headers, this has {len(head.headers)}"
        raise RefusalError(ErrorCode.HEAD_TOO_LARGE, detail)
    # h11 counts what is incomplete: a larger head that came in one piece has passed it.
    if len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers) > MAX_HEAD:
        raise _too_large()
    if not head.target.startswith(b"/"):
        raise RefusalError(ErrorCode.BAD_REQUEST, "the target of a request is a path here")
    if b"#" in head.target:
        raise RefusalError(ErrorCode.BAD_REQUEST, "the target of a request has no fragment: write `#` as %23")
    for name, value in head.headers:
        if name == b"host" and not _HOST.fullmatch(value):
            raise RefusalError(ErrorCode.BAD_REQUEST, "the header `Host` is no HOST and no HOST:PORT", field="Host")
