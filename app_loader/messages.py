"""Requests and responses as handlers see them: nothing of sockets, TLS or h11."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

from app_loader.principals import Peer
from app_loader.session import Session
from keep_protocol.errors import PROBLEM_HEADER, PROBLEM_MEDIA_TYPE, ErrorCode, RefusalError
from keep_protocol.states import KeepRole
from keep_protocol.strict_json import decode_strictly

JSON_MEDIA_TYPE: Final = "application/json"
BYTES_MEDIA_TYPE: Final = "application/octet-stream"

MAX_JSON: Final = 1024 * 1024
"""Bytes of a JSON body."""

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})|(%)")
_INVALID_AT: Final = re.compile(r" - at `(\$[^`]*)`$")

_T = TypeVar("_T")

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Headers or trailers as they are on the wire."""


class Body(Protocol):
    """The body of a request: chunks as they arrive, once. What is not read in time is a `RefusalError`."""

    size: int | None
    """Bytes that the client has announced."""
    patience: float | None
    """Seconds to wait for each chunk; None: as long as the client is there."""
    trailers: Fields
    """What came behind a chunked body; known at its end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Stream(Protocol):
    """The body of a response that is made while it is sent; closed in any case, begun or not.

    One that breaks off raises `ConnectionError`.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def aclose(self) -> Awaitable[None]: ...


class Request:
    """One request of a client whom the port lets in."""

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Mapping[str, str],
        body: Body,
        client: Peer,
        session: Session,
        fields: Fields = (),
    ) -> None:
        path, _, query = target.partition(b"?")
        self.method = method
        self.segments = tuple(path.split(b"/")[1:])
        """The path, still percent-encoded, split at each `/` behind the first."""
        self.raw_query = query
        self.headers = headers
        """Names in lower case."""
        self.fields = fields
        """The headers as they came, in order."""
        self.body = body
        self.client = client
        self.session = session
        self.roles: frozenset[KeepRole] = frozenset()
        """What the client may be; set once its right to this request has been checked."""
        self.parameters: dict[str, str] = {}
        """The variable parts of the path, decoded; bytes that are not UTF-8 are surrogates."""

    def query(self, *allowed: str) -> dict[str, str]:
        """The parameters behind `?`. Raises `RefusalError` for one that is unknown or given twice."""
        values: dict[str, str] = {}
        for part in filter(None, self.raw_query.split(b"&")):
            key, _, value = part.partition(b"=")
            name = percent_decode(key)
            if name not in allowed or name in values:
                known = ", ".join(allowed) or "none"
                raise RefusalError(
                    ErrorCode.FIELD_INVALID,
                    f"query parameters here are {known}, each at most once",
                    field=name.encode("utf-8", "backslashreplace").decode()[:64],
                )
            values[name] = require_utf8(percent_decode(value), name)
        return values

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `RefusalError` (`body-too-large`) before it holds more than `limit` bytes."""
        if self.body.size is not None and self.body.size > limit:
            raise too_large(limit)
        content = bytearray()
        async for chunk in self.body:
            content += chunk
            if len(content) > limit:
                raise too_large(limit)
        return bytes(content)

    async def json(self, wanted: type[_T]) -> _T:
        """The body, decoded strictly. Raises `RefusalError`."""
        self.require_media_type(JSON_MEDIA_TYPE)
        content = await self.read(MAX_JSON)
        try:
            return decode_strictly(content, wanted)
        except msgspec.ValidationError as error:
            raise invalid_field(error) from None
        except msgspec.DecodeError as error:
            raise RefusalError(ErrorCode.BAD_REQUEST, f"the body is no JSON: {error}") from None

    def require_media_type(self, *wanted: str) -> None:
        """Raise `RefusalError` unless Content-Type is one of `wanted`; its parameters don't matter."""
        given = self.headers.get("content-type", "")
        if given.partition(";")[0].strip().lower() not in wanted:
            detail = f"Content-Type is {' or '.join(wanted)} here, not {given[:100]!r}"
            raise RefusalError(ErrorCode.MEDIA_TYPE_UNSUPPORTED, detail)


class Response:
    """An answer. A body that is no `bytes` is streamed, with `size` as Content-Length when that is known."""

    fields: Fields | None = None
    """Of a workload's answer: all of its headers, which are not the keep's to add to."""
    trailers: Fields = ()
    """Sent behind a streamed body, if they are there at its end."""

    def __init__(
        self,
        status: HTTPStatus | int,
        body: bytes | Stream = b"",
        *,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.size = len(body) if isinstance(body, bytes) else size
        self.headers = dict(headers or {})
        if media_type is not None:
            self.headers["content-type"] = media_type


CODING_FIELD: Final = "Content-Encoding"
"""Of a refusal (415) that is about how a body is coded."""

ACCEPTED: Final = "gzip, zstd"
"""Codings of uploads."""


def json_response(
    value: msgspec.Struct, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """`value` as JSON."""
    return Response(status, msgspec.json.encode(value), media_type=JSON_MEDIA_TYPE, headers=headers)


def problem_response(refusal: RefusalError, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal as an RFC 9457 problem."""
    body = msgspec.json.encode(refusal.problem())
    named = {PROBLEM_HEADER: refusal.code.value, **(headers or {})}
    return Response(refusal.code.status, body, media_type=PROBLEM_MEDIA_TYPE, headers=named)


def invalid_field(error: msgspec.ValidationError) -> RefusalError:
    """msgspec's complaint as a problem that names the field by its JSON path."""
    message = str(error)
    match = _INVALID_AT.search(message)
    return RefusalError(
        ErrorCode.FIELD_INVALID,
        message[: match.start()] if match else message,
        field=match[1] if match else "$",
    )


def too_large(limit: int) -> RefusalError:
    """A body beyond its limit."""
    return RefusalError(ErrorCode.BODY_TOO_LARGE, f"the body has more than the {limit} bytes that are allowed here")


def require_utf8(decoded: str, field: str) -> str:
    """What `percent_decode` gave, if it was UTF-8; only paths of files may be other bytes. Raises `RefusalError`."""
    try:
        decoded.encode()
    except UnicodeEncodeError:
        raise RefusalError(ErrorCode.BAD_REQUEST, "what is encoded in the URL is not UTF-8", field=field) from None
    return decoded


def percent_decode(encoded: bytes) -> str:
    """A part of a URL decoded; bytes that are not UTF-8 become surrogates. Raises `RefusalError`.

    RFC 3986, section 2.1. urllib is not worth its import here.
    """

    def byte(match: re.Match[bytes]) -> bytes:
        if match[2]:
            raise RefusalError(ErrorCode.BAD_REQUEST, "in a URL two hex digits follow each '%'")
        return bytes((int(match[1], 16),))

    return _ESCAPE.sub(byte, encoded).decode("utf-8", "surrogateescape")
