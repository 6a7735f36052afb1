"""One route of the keep's API: who may ask it, what answers it, how it is described, which paths it matches."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from app_loader.errors import RouteTableError
from app_loader.keep import Keep
from app_loader.messages import Request, Response, percent_decode
from app_loader.paths import check_component
from keep_protocol.states import FileArea, KeepRole


class Handler(Protocol):
    """What answers a route's requests. Raises `RefusalError`."""

    __name__: str

    def __call__(self, keep: Keep, request: Request, /) -> Awaitable[Response]: ...


class Deferred(msgspec.Struct, frozen=True):
    """What only some keeps are ever asked for, by where it is: none imports it before somebody asks."""

    module: str
    name: str

    def load(self) -> Any:
        """It, imported now at the latest."""
        return getattr(importlib.import_module(self.module), self.name)


Content: TypeAlias = type[msgspec.Struct] | Deferred | str | None
"""A body: a JSON type, or where it is, a media type, or nothing."""


class Parameter(NamedTuple):
    """A query parameter or a header of a request: what it means, and which values it has, in JSON Schema."""

    meaning: str
    schema: Mapping[str, object]


class Route:
    """One method on one path. `{name}` in the path is one segment; `{path}` at its end is all that follows."""

    def __init__(
        self,
        method: str,
        path: str,
        roles: frozenset[KeepRole],
        handler: Handler | Deferred,
        summary: str,
        *,
        answers: Mapping[HTTPStatus, tuple[Content, ...]],
        body: Content = None,
        query: Mapping[str, Parameter] | None = None,
        headers: Mapping[str, Parameter] | None = None,
        sends: Mapping[str, str] | None = None,
        area: FileArea | None = None,
        frequent: bool = False,
        foreign: bool = False,
        coded: bool = False,
        other_bodies: tuple[str, ...] = (),
    ) -> None:
        if not roles:
            raise RouteTableError(f"{method} {path} names no role")
        self.method = method
        self.path = path
        self.roles = roles
        self._handler = handler
        self.summary = summary
        self.answers = answers
        self.body = body
        self.query = query or {}
        """Query parameters that the route understands."""
        self.headers = headers or {}
        """Request headers that the route understands."""
        self.sends = sends or {}
        """Headers of its answers that say something, and what."""
        self.area = area
        self.frequent = frequent
        """Whether there may be thousands of requests a second, too many for a line of the log each."""
        self.foreign = foreign
        """Whether all behind its path is the workload's, which gets it as it came."""
        self.other_bodies = other_bodies
        """Media types that a body may have instead."""
        self.coded = coded
        """Whether its bodies may have a Content-Encoding."""
        self._segments = tuple(path.encode().split(b"/")[1:])

    @property
    def handler(self) -> Handler:
        """What answers; imported with the first request."""
        handler: Handler = self._handler.load() if isinstance(self._handler, Deferred) else self._handler
        self._handler = handler
        return handler

    @property
    def name(self) -> str:
        """What the operation is called in the API's description."""
        name = self.handler.__name__
        if self.foreign:
            return f"{name}_{self.method.lower()}"
        return f"{name}_{self.area.value}" if self.area is not None else name

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The variable parts of the path."""
        return tuple(segment[1:-1].decode() for segment in self._segments if segment.startswith(b"{"))

    def match(self, segments: tuple[bytes, ...]) -> dict[str, str] | None:
        """The parameters in a path of this route, or None for another path. Raises `RefusalError`."""
        pattern = self._segments
        if pattern[-1] == b"{path}":
            pattern = pattern[:-1]
            rest = segments[len(pattern) :]
            segments = segments[: len(pattern)]
        elif len(segments) != len(pattern):
            return None
        else:
            rest = ()
        if len(segments) != len(pattern):
            return None
        found: dict[str, str] = {}
        for wanted, given in zip(pattern, segments, strict=True):
            if wanted.startswith(b"{"):
                found[wanted[1:-1].decode()] = percent_decode(given)
            elif wanted != given:
                return None
        if self.area is not None:
            found["area"] = self.area.value
            found["path"] = _relative_path(rest)
        return found


def _relative_path(segments: tuple[bytes, ...]) -> str:
    names = [percent_decode(segment) for segment in segments]
    for name in names:
        if "/" in name:  # it was escaped, so it belongs to a name
            check_component(name)
    return "/".join(names)
