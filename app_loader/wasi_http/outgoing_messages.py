"""Requests that a guest makes, as it builds them up, and the promise of their response."""

from __future__ import annotations

import re
from typing import Any

from app_loader.wasi_http.bodies import OutgoingBody
from app_loader.wasi_http.errors import ErrorResult
from app_loader.wasi_http.fields import Fields
from app_loader.wasi_http.resources import Resource
from app_loader.wasi_http.streams import Pollable

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}", re.ASCII)
_PATH = re.compile(r"[/?][!-~]*|\*", re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.\-_]{1,255})(:[0-9]{1,5})?", re.ASCII)
"""Without user information, which RFC 9110 (section 4.2.4) has no use for."""

MAX_PATH = 16 * 1024


def is_method(given: str) -> bool:
    """Whether it is a token."""
    return _METHOD.fullmatch(given) is not None


def is_path(given: str) -> bool:
    """Whether it is a path with an optional query, percent-encoded."""
    return not given or (len(given) <= MAX_PATH and _PATH.fullmatch(given) is not None and "#" not in given)


def is_authority(given: str) -> bool:
    """Whether it is a host with an optional port."""
    return _AUTHORITY.fullmatch(given) is not None


class OutgoingRequest(Resource):
    """`outgoing-request`"""

    def __init__(self, headers: Fields) -> None:
        self.headers = headers
        self.method: tuple[str, str | None] = ("get", None)
        self.path: str | None = None
        self.scheme: tuple[str, str | None] | None = None
        self.authority: str | None = None
        self.body: OutgoingBody | None = None


class RequestOptions(Resource):
    """`request-options`: time-outs in seconds, by the name of what they are for."""

    def __init__(self) -> None:
        self.timeouts: dict[str, float] = {}


class FutureIncomingResponse(Resource):
    """`future-incoming-response`: subclasses know when the response is there."""

    def __init__(self) -> None:
        self._taken = False

    def ready(self) -> bool:
        """Whether there is a response or a failure."""
        raise NotImplementedError

    def response(self) -> Resource:
        """The response that is there. Raises `ErrorResult` with an `error-code`."""
        raise NotImplementedError

    def pollable(self) -> Pollable:
        """Ready when it is."""
        raise NotImplementedError

    def get(self) -> tuple[bool, Any] | None:
        """None until it is there; afterwards once what there is."""
        if not self.ready():
            return None
        if self._taken:
            return False, None
        self._taken = True
        try:
            return True, (True, self.response())
        except ErrorResult as error:
            return True, (False, error.value)
