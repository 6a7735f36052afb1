"""What the routes of secrets do. No value is ever part of an answer, an error or the log."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from app_loader.keep import Keep
from app_loader.messages import BYTES_MEDIA_TYPE, Request, Response, json_response, too_large
from app_loader.secret_store import wipe
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.secret_api import MAX_SECRET, MAX_TTL, SecretList

_SECONDS: Final = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def require_attested(keep: Keep, request: Request) -> None:
    """Refuse what is for the eyes of a proven keep only, until the client has asked it for proof on this connection.

    A keep whose spec asks for no evidence has only its pinned key to show: its client trusts the host.
    """
    if keep.spec.evidence is not None and not request.session.attested:
        raise RefusalError(
            ErrorCode.ATTESTATION_REQUIRED,
            "this is only done on a connection on which the keep has proven itself",
            remedy="ask for evidence by POST /v1/attestation on the same connection, and verify it",
        )


async def put_secret(keep: Keep, request: Request) -> Response:
    """Keep a secret under a name, in place of the one there is."""
    require_attested(keep, request)
    _refuse_fetched(keep, request.parameters["secret"])
    ttl = _ttl(request)
    request.require_media_type(BYTES_MEDIA_TYPE)
    value = await _value(request)
    info, created = keep.secrets.put(request.parameters["secret"], value, ttl)
    return json_response(info, HTTPStatus.CREATED if created else HTTPStatus.OK)


async def delete_secret(keep: Keep, request: Request) -> Response:
    """Forget a secret; runs that have it keep it."""
    request.query()
    require_attested(keep, request)
    _refuse_fetched(keep, request.parameters["secret"])
    keep.secrets.remove(request.parameters["secret"])
    return Response(HTTPStatus.NO_CONTENT)


async def list_secrets(keep: Keep, request: Request) -> Response:
    """The names of the secrets, never their values, and where the keep fetches some of them."""
    request.query()
    require_attested(keep, request)
    sources = () if keep.secret_sources is None else keep.secret_sources.list()
    return json_response(SecretList(keep.secrets.list(), sources))


def _refuse_fetched(keep: Keep, name: str) -> None:
    if keep.secret_sources is not None and name in keep.secret_sources.names():
        raise RefusalError(
            ErrorCode.SECRET_UNUSABLE,
            "the keep fetches this secret itself, as its spec says: it is neither given nor taken away by hand",
            remedy="change it where it is fetched, or make another keep",
        )


def _ttl(request: Request) -> int | None:
    ttl = request.query("ttl").get("ttl")
    if ttl is None:
        return None
    if not _SECONDS.fullmatch(ttl) or int(ttl) > MAX_TTL:
        raise RefusalError(ErrorCode.FIELD_INVALID, f"`ttl` is a number of seconds from 1 to {MAX_TTL}", field="ttl")
    return int(ttl)


async def _value(request: Request) -> bytearray:
    """The body, in memory that can be overwritten."""
    if request.body.size is not None and request.body.size > MAX_SECRET:
        raise too_large(MAX_SECRET)
    value = bytearray()
    try:
        async for chunk in request.body:
            if len(value) + len(chunk) > MAX_SECRET:
                raise too_large(MAX_SECRET)
            value += chunk
    except BaseException:
        wipe(value)
        raise
    return value
