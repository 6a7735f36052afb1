"""Everything that goes wrong in a request, as an RFC 9457 problem."""

from __future__ import annotations

import re

import msgspec
from starlette.responses import Response

from keep_protocol.errors import PROBLEM_MEDIA_TYPE, ErrorCode, RefusalError

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)

_UNREAD_BODY = frozenset({ErrorCode.BODY_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT, ErrorCode.BODY_INCOMPLETE})
"""After these the rest of the body must not be taken for the next request, nor read to its end."""


def problem_response(refusal: RefusalError) -> Response:
    """The answer to a refused request."""
    headers = {"cache-control": "no-store"}
    if refusal.code in _UNREAD_BODY:
        headers["connection"] = "close"
    problem = refusal.problem()
    return Response(msgspec.json.encode(problem), problem.status, headers, media_type=PROBLEM_MEDIA_TYPE)


def decoding_refusal(error: msgspec.DecodeError, *, spec: str = "spec") -> RefusalError:
    """Why a body is not what its route takes: `bad-request` for no JSON, else the field and its rule."""
    if not isinstance(error, msgspec.ValidationError):
        return RefusalError(ErrorCode.BAD_REQUEST, f"the body is not JSON: {error}", remedy="send one JSON object")
    match = _PLACE.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    field = (path or "").lstrip(".") or None
    code = ErrorCode.FIELD_INVALID
    if field is not None and (field == spec or field.startswith((f"{spec}.", f"{spec}["))):
        code = ErrorCode.SPEC_INVALID
    return RefusalError(
        code, f"{what} at `{field}`" if field else what, field=field, remedy="see GET /v1/openapi.json for the fields"
    )
