"""The FastAPI application: the table of routes, wired to one manager."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from keep_manager.authentication import authenticate, authorise
from keep_manager.caller import Caller
from keep_manager.context import ManagerContext
from keep_manager.errors import StoreError, StoreFullError
from keep_manager.problems import decoding_refusal, problem_response
from keep_manager.route import JSON_MEDIA_TYPE, Call, Route
from keep_manager.routes import ROUTES
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.strict_json import decode_strictly

_logger = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
BODY_DEADLINE = 30.0
"""Seconds for a whole body; none is larger than `MAX_BODY`."""

_DENIALS = frozenset({ErrorCode.FORBIDDEN, ErrorCode.IDENTITY_INVALID, ErrorCode.CERTIFICATE_REVOKED})


def create_app(context: ManagerContext, routes: tuple[Route, ...] = ROUTES) -> FastAPI:
    """An application of these routes and nothing else: no documentation pages, no redirects."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for route in routes:
        app.add_api_route(
            route.path,
            _endpoint(route, context),
            methods=[route.method],
            name=route.handler.__name__,
            response_model=None,
        )
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    return app


def _endpoint(route: Route, context: ManagerContext) -> Callable[[Request], Awaitable[Response]]:
    name = f"{route.method} {route.path}"

    async def endpoint(request: Request) -> Response:
        started = time.monotonic()
        request_id = secrets.token_hex(8)
        certificate: bytes | None = request.scope.get("state", {}).get("client_certificate")
        caller: Caller | None = None
        outcome = "ok"
        try:
            caller = authenticate(certificate, context)
            authorise(route, caller)
            response = await route.handler(await _decode(route, context, caller, request))
        except Exception as error:
            refusal = _refusal(error, name, request_id)
            outcome = refusal.code.value
            response = problem_response(refusal)
            if refusal.code in _DENIALS:
                _record_denial(context, caller, name, certificate, refusal)
        response.headers["x-request-id"] = request_id
        context.requests[name, response.status_code] += 1
        _logger.info(
            "request %s: %s %s by %s: %d %s in %.1f ms",
            # As it was sent, percent-encoded: decoded it could forge lines and steer terminals.
            *(request_id, request.method, request.scope["raw_path"].decode("ascii")),
            caller.id if caller else _fingerprint(certificate),
            *(response.status_code, outcome, (time.monotonic() - started) * 1000),
        )
        return response

    return endpoint


async def _decode(route: Route, context: ManagerContext, caller: Caller, request: Request) -> Call:
    query = _query(route, request)
    body, raw = None, b""
    _check_length(request)
    if route.request is not None:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JSON_MEDIA_TYPE:
            raise RefusalError(
                ErrorCode.MEDIA_TYPE_UNSUPPORTED,
                f"the body is {media_type or 'of no stated type'}, not {JSON_MEDIA_TYPE}",
                remedy=f"send JSON with Content-Type: {JSON_MEDIA_TYPE}",
            )
        raw = await _read_body(request)
        try:
            body = decode_strictly(raw, route.request)
        except msgspec.DecodeError as error:
            raise decoding_refusal(error) from None
    return Call(context, caller, request.path_params, request.headers, query, body, hashlib.sha256(raw).digest())


def _query(route: Route, request: Request) -> Any:
    given = request.query_params.multi_items()
    values = dict(given)
    if len(values) != len(given):
        raise RefusalError(ErrorCode.FIELD_INVALID, "a query parameter is given twice")
    if route.query is None:
        if values:
            name = next(iter(values))
            raise RefusalError(
                ErrorCode.FIELD_INVALID, "this route takes no query parameters", field=name[:80], remedy="leave it out"
            )
        return None
    try:
        return msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise decoding_refusal(error) from None


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    # h11 lets digits pass only.
    if int(length) > MAX_BODY:
        raise _too_large(f"{length} bytes")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _too_large(f"more than {MAX_BODY} bytes")
    except TimeoutError:
        raise RefusalError(ErrorCode.REQUEST_TIMEOUT, f"the body did not arrive in {BODY_DEADLINE:.0f} s") from None
    except ClientDisconnect:
        raise RefusalError(ErrorCode.BODY_INCOMPLETE, "the connection ended within the body") from None
    return bytes(body)


def _too_large(size: str) -> RefusalError:
    return RefusalError(
        ErrorCode.BODY_TOO_LARGE,
        f"the body has {size}, and the manager takes {MAX_BODY}",
        remedy="workloads and files go to the keep's own endpoint",
    )


def _refusal(error: Exception, name: str, request_id: str) -> RefusalError:
    """What the caller is told; what is ours to know goes to the log."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, StoreFullError):
        _logger.error("request %s: %s", request_id, error)
        return RefusalError(
            ErrorCode.DISK_FULL, "the manager's disk is full; nothing was changed", remedy="ask the operator"
        )
    if isinstance(error, StoreError):
        _logger.error("request %s: %s", request_id, error)
    else:
        _logger.error("request %s: %s failed", request_id, name, exc_info=error)
    return RefusalError(
        ErrorCode.INTERNAL,
        f"the manager failed; its log has the reason under request {request_id}",
        remedy="ask the operator",
    )


def _record_denial(
    context: ManagerContext, caller: Caller | None, name: str, certificate: bytes | None, refusal: RefusalError
) -> None:
    detail = {"route": name, "code": refusal.code.value, "certificate": _fingerprint(certificate)}
    try:
        context.events.deny(caller.id if caller else None, detail)
    except StoreError as error:
        _logger.error("a refused request is not in the events: %s", error)


def _fingerprint(certificate: bytes | None) -> str:
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}" if certificate else "nobody"


async def _http_problem(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    if status == 405:
        allowed = _allowed_methods(request)
        headers = {"Allow": allowed}
        refusal = RefusalError(
            ErrorCode.METHOD_NOT_ALLOWED, f"{request.method[:32]} is not for this path", remedy=f"use {allowed}"
        )
    elif status == 404:
        refusal = RefusalError(ErrorCode.ROUTE_NOT_FOUND, "there is no such path", remedy="see GET /v1/openapi.json")
    else:
        refusal = RefusalError(ErrorCode.BAD_REQUEST, f"the request cannot be answered: {status}")
    response = problem_response(refusal)
    response.headers.update(headers or {})
    return response


def _allowed_methods(request: Request) -> str:
    """What stands in `Allow`: Starlette names only the methods of the first route with this path."""
    allowed: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            allowed |= route.methods
    return ", ".join(sorted(allowed))


async def _validation_problem(request: Request, error: Exception) -> Response:
    """FastAPI's own checks; our routes leave it nothing to check, and its shape must never get out."""
    return problem_response(RefusalError(ErrorCode.FIELD_INVALID, "the request's parameters are not acceptable"))
