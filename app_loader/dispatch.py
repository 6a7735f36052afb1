"""From a request to its route's handler: existence, rights, errors, and a line in the log for each decision."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

from app_loader.keep import Keep
from app_loader.messages import ACCEPTED, CODING_FIELD, Request, Response, problem_response
from app_loader.route import Route
from app_loader.routes import ROUTES
from keep_protocol.errors import ErrorCode, RefusalError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DISK_FAILED = frozenset({errno.EIO, errno.EROFS})
"""What a machine sees of a host's disk that is full or broken: its file system takes nothing more from then on."""

_RETRY_AFTER = "1"
"""Seconds."""

_logger = logging.getLogger(__name__)


class Dispatcher:
    """The application that a server serves."""

    def __init__(self, keep: Keep, routes: Sequence[Route] = ROUTES) -> None:
        self._keep = keep
        self._routes = routes

    async def __call__(self, request: Request) -> Response:
        """The response to `request`, whatever happens but cancellation."""
        route: Route | None = None
        try:
            # Rights before existence: who is nobody any more learns nothing.
            request.roles = request.client.roles()
            route = self._find(request)
            if not request.roles & route.roles:
                raise RefusalError(ErrorCode.FORBIDDEN, f"this needs one of the roles {', '.join(sorted(route.roles))}")
            if not route.coded and not route.foreign:
                _refuse_coding(request)
            response = await route.handler(self._keep, request)
        except _MethodError as error:
            response = problem_response(error, {"allow": error.allowed})
        except RefusalError as refusal:
            response = problem_response(refusal)
            if refusal.field == CODING_FIELD and refusal.code is ErrorCode.MEDIA_TYPE_UNSUPPORTED:
                # RFC 9110, section 15.5.16.
                response.headers["accept-encoding"] = ACCEPTED if route is not None and route.coded else "identity"
            if refusal.code in {ErrorCode.TOO_MANY_REQUESTS, ErrorCode.SECRET_PENDING}:
                response.headers["retry-after"] = _RETRY_AFTER
            if refusal.code in {ErrorCode.IDENTITY_INVALID, ErrorCode.CERTIFICATE_REVOKED, ErrorCode.CRL_UNUSABLE}:
                response.headers["connection"] = "close"
        except Exception as error:
            response = _failure(error)
        _log(request, route, response)
        return response

    def _find(self, request: Request) -> Route:
        allowed = set()
        for route in self._routes:
            parameters = route.match(request.segments)
            if parameters is None:
                continue
            if route.method == request.method:
                request.parameters = parameters
                return route
            allowed.add(route.method)
        if allowed:
            raise _MethodError(request.method, ", ".join(sorted(allowed)))
        raise RefusalError(ErrorCode.ROUTE_NOT_FOUND, "there is nothing at this path; see /v1/openapi.json")


def _refuse_coding(request: Request) -> None:
    """What is stored or understood as it comes must not be taken for what it was coded from."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise RefusalError(
            ErrorCode.MEDIA_TYPE_UNSUPPORTED,
            f"Content-Encoding {coding[:100]!r} is not taken here: send the body as it is",
            field=CODING_FIELD,
        )


class _MethodError(RefusalError):
    """The path exists, the method does not."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(ErrorCode.METHOD_NOT_ALLOWED, f"{method[:32]} is not allowed here, but {allowed}")
        self.allowed = allowed


def _failure(error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        _logger.error("the disk is full")
        detail = "the host has no room left for this keep; what was there before is unharmed"
        return problem_response(RefusalError(ErrorCode.DISK_FULL, detail, remedy="remove files, or ask the operator"))
    if isinstance(error, OSError) and error.errno in _DISK_FAILED:
        _logger.error("the disk does not take what is written: %s", error.strerror)
        detail = "the keep's disk takes nothing more: the host's is full or broken; what was acknowledged is unharmed"
        remedy = "ask the operator to make room and to restart the keep"
        return problem_response(RefusalError(ErrorCode.DISK_FAILED, detail, remedy=remedy))
    _logger.error("a request failed", exc_info=error)
    return problem_response(RefusalError(ErrorCode.INTERNAL, "the keep failed to answer this; its log says why"))


def _log(request: Request, route: Route | None, response: Response) -> None:
    # The log is the host's: it gets the route, never the names of files, arguments or contents.
    level = logging.WARNING if response.status == ErrorCode.FORBIDDEN.status else logging.DEBUG
    changes = request.method != "GET" and not (route is not None and route.frequent)
    if changes and level == logging.DEBUG:
        level = logging.INFO
    where = route.path if route else "no route"
    _logger.log(level, "%s %s by %s: %d", request.method[:32], where, request.client.name, response.status)
