"""The functions of `wasi:http` for requests that a guest makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app_loader.wasi_http.bodies import OutgoingBody
from app_loader.wasi_http.errors import ErrorResult
from app_loader.wasi_http.fields import Fields, content_length
from app_loader.wasi_http.functions import Interface
from app_loader.wasi_http.outgoing_messages import (
    FutureIncomingResponse,
    OutgoingRequest,
    RequestOptions,
    is_authority,
    is_method,
    is_path,
)
from app_loader.wasi_http.streams import Pollable
from app_loader.wasi_http.types_interface import ERROR_CODE, METHOD, SCHEME, TYPES, IncomingResponse
from app_loader.wasi_http.values import STRING, U64, Borrow, Option, Own, Result

if TYPE_CHECKING:
    from app_loader.wasi_http.host import Host

OUTGOING_HANDLER = Interface("wasi:http/outgoing-handler")
TYPES.resources["outgoing-request"] = OutgoingRequest
TYPES.resources["request-options"] = RequestOptions
TYPES.resources["future-incoming-response"] = FutureIncomingResponse

_REQUEST = Borrow(OutgoingRequest)
_OPTIONS = Borrow(RequestOptions)
_FUTURE = Borrow(FutureIncomingResponse)
_NANOSECONDS = 1_000_000_000
_TIMEOUTS = ("connect", "first-byte", "between-bytes")


@TYPES.function("[constructor]outgoing-request", Own(Fields), gives=Own(OutgoingRequest))
def new_request(_host: Host, headers: Fields) -> OutgoingRequest:
    headers.frozen = True
    return OutgoingRequest(headers)


@TYPES.function("[method]outgoing-request.body", _REQUEST, gives=Result(Own(OutgoingBody)))
def request_body(_host: Host, request: OutgoingRequest) -> OutgoingBody:
    if request.body is not None:
        raise ErrorResult
    request.body = OutgoingBody(lambda: content_length(request.headers.entries), of="request")
    return request.body


@TYPES.function("[method]outgoing-request.method", _REQUEST, gives=METHOD)
def method(_host: Host, request: OutgoingRequest) -> tuple[str, str | None]:
    return request.method


@TYPES.function("[method]outgoing-request.set-method", _REQUEST, METHOD, gives=Result())
def set_method(_host: Host, request: OutgoingRequest, given: tuple[str, str | None]) -> None:
    if given[1] is not None and not is_method(given[1]):
        raise ErrorResult
    request.method = given


@TYPES.function("[method]outgoing-request.path-with-query", _REQUEST, gives=Option(STRING))
def path(_host: Host, request: OutgoingRequest) -> str | None:
    return request.path


@TYPES.function("[method]outgoing-request.set-path-with-query", _REQUEST, Option(STRING), gives=Result())
def set_path(_host: Host, request: OutgoingRequest, given: str | None) -> None:
    if given is not None and not is_path(given):
        raise ErrorResult
    request.path = given


@TYPES.function("[method]outgoing-request.scheme", _REQUEST, gives=Option(SCHEME))
def scheme(_host: Host, request: OutgoingRequest) -> tuple[str, str | None] | None:
    return request.scheme


@TYPES.function("[method]outgoing-request.set-scheme", _REQUEST, Option(SCHEME), gives=Result())
def set_scheme(_host: Host, request: OutgoingRequest, given: tuple[str, str | None] | None) -> None:
    request.scheme = given


@TYPES.function("[method]outgoing-request.authority", _REQUEST, gives=Option(STRING))
def authority(_host: Host, request: OutgoingRequest) -> str | None:
    return request.authority


@TYPES.function("[method]outgoing-request.set-authority", _REQUEST, Option(STRING), gives=Result())
def set_authority(_host: Host, request: OutgoingRequest, given: str | None) -> None:
    if given is not None and not is_authority(given):
        raise ErrorResult
    request.authority = given


@TYPES.function("[method]outgoing-request.headers", _REQUEST, gives=Own(Fields))
def request_headers(_host: Host, request: OutgoingRequest) -> Fields:
    return Fields(request.headers.entries, frozen=True)


@TYPES.function("[constructor]request-options", gives=Own(RequestOptions))
def new_options(_host: Host) -> RequestOptions:
    return RequestOptions()


def _define_timeout(name: str) -> None:
    @TYPES.function(f"[method]request-options.{name}-timeout", _OPTIONS, gives=Option(U64))
    def get(_host: Host, options: RequestOptions) -> int | None:
        seconds = options.timeouts.get(name)
        return None if seconds is None else round(seconds * _NANOSECONDS)

    @TYPES.function(f"[method]request-options.set-{name}-timeout", _OPTIONS, Option(U64), gives=Result())
    def put(_host: Host, options: RequestOptions, duration: int | None) -> None:
        if duration is None:
            options.timeouts.pop(name, None)
        else:
            options.timeouts[name] = duration / _NANOSECONDS


for _name in _TIMEOUTS:
    _define_timeout(_name)


@TYPES.function("[method]future-incoming-response.subscribe", _FUTURE, gives=Own(Pollable))
def subscribe_to_response(_host: Host, future: FutureIncomingResponse) -> Pollable:
    return future.pollable()


@TYPES.function(
    "[method]future-incoming-response.get", _FUTURE, gives=Option(Result(Result(Own(IncomingResponse), ERROR_CODE)))
)
def get_response(_host: Host, future: FutureIncomingResponse) -> tuple[bool, Any] | None:
    return future.get()


@OUTGOING_HANDLER.function(
    "handle",
    Own(OutgoingRequest),
    Option(Own(RequestOptions)),
    gives=Result(Own(FutureIncomingResponse), ERROR_CODE),
)
def handle(host: Host, request: OutgoingRequest, options: RequestOptions | None) -> FutureIncomingResponse:
    if host.outgoing is None:
        raise ErrorResult(("HTTP-request-denied", None))
    if host.exchange is not None:
        host.exchange.release()
    return host.outgoing.send(request, options or RequestOptions())
