"""Requests of verified clients, without a connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec

from app_loader.dispatch import Dispatcher
from app_loader.keep import Keep
from app_loader.messages import Fields, Request, Response
from app_loader.principals import Client, Principals
from app_loader.revocation import Revocations
from app_loader.route import Route
from app_loader.routes import ROUTES
from app_loader.session import Session
from keep_protocol.errors import Problem
from keep_protocol.states import KeepRole
from tests.unit.app_loader.pki import self_signed

NO_KEEP = cast(Keep, None)
"""For handlers of tests, which don't look at it."""

_CREDENTIAL = self_signed()


class GivenBody:
    """A body whose chunks are there already."""

    def __init__(self, chunks: Sequence[bytes], size: int | None) -> None:
        self._chunks = chunks
        self.size = size
        self.patience: float | None = 10.0
        self.trailers: Fields = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def client(*roles: KeepRole) -> Client:
    """A client with these roles."""
    principals = Principals([_CREDENTIAL.pinned(*roles)], Revocations(Path("/nonexistent")))
    return principals.identify(_CREDENTIAL.der, {})


def session() -> Session:
    """A session of a connection whose handshake never begins."""
    return Session(
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")
    )


def request(
    method: str,
    target: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    roles: Sequence[KeepRole] = (KeepRole.OWNER,),
) -> Request:
    """A request; a body given in chunks has no announced size."""
    given = GivenBody([body], len(body)) if isinstance(body, bytes) else GivenBody(body, None)
    return Request(method, target.encode(), headers or {}, given, client(*roles), session())


def ask(request: Request, keep: Keep = NO_KEEP, routes: Sequence[Route] = ROUTES) -> Response:
    """The application's response."""
    return asyncio.run(_ask(Dispatcher(keep, routes), request))


async def _ask(dispatcher: Dispatcher, request: Request) -> Response:
    response = await dispatcher(request)
    if not isinstance(response.body, bytes):
        response.body = b"".join([chunk async for chunk in response.body])
    return response


def problem(response: Response) -> Problem:
    """The problem in a response."""
    assert response.headers["content-type"] == "application/problem+json"
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body, type=Problem)
