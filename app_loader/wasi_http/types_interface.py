"""The functions of `wasi:http/types` for messages that come in and responses that go out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app_loader.wasi_http.bodies import BodySource, FutureTrailers, IncomingBody, OutgoingBody
from app_loader.wasi_http.errors import ErrorResult, GuestFaultError
from app_loader.wasi_http.exchange import Exchange
from app_loader.wasi_http.fields import Fields, check_name, checked_value, content_length, permitted
from app_loader.wasi_http.frames import Headers, ResponseHead
from app_loader.wasi_http.functions import Interface
from app_loader.wasi_http.resources import Resource
from app_loader.wasi_http.streams import InputStream, IoError, OutputStream, Pollable
from app_loader.wasi_http.values import (
    BOOL,
    BYTES,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Borrow,
    List,
    Option,
    Own,
    Record,
    Result,
    Tuple,
    Variant,
)

if TYPE_CHECKING:
    from app_loader.wasi_http.host import Host

_SIZE = Record(field_name=Option(STRING), field_size=Option(U32))
ERROR_CODE = Variant(
    {
        "DNS-timeout": None,
        "DNS-error": Record(rcode=Option(STRING), info_code=Option(U16)),
        "destination-not-found": None,
        "destination-unavailable": None,
        "destination-IP-prohibited": None,
        "destination-IP-unroutable": None,
        "connection-refused": None,
        "connection-terminated": None,
        "connection-timeout": None,
        "connection-read-timeout": None,
        "connection-write-timeout": None,
        "connection-limit-reached": None,
        "TLS-protocol-error": None,
        "TLS-certificate-error": None,
        "TLS-alert-received": Record(alert_id=Option(U8), alert_message=Option(STRING)),
        "HTTP-request-denied": None,
        "HTTP-request-length-required": None,
        "HTTP-request-body-size": Option(U64),
        "HTTP-request-method-invalid": None,
        "HTTP-request-URI-invalid": None,
        "HTTP-request-URI-too-long": None,
        "HTTP-request-header-section-size": Option(U32),
        "HTTP-request-header-size": Option(_SIZE),
        "HTTP-request-trailer-section-size": Option(U32),
        "HTTP-request-trailer-size": _SIZE,
        "HTTP-response-incomplete": None,
        "HTTP-response-header-section-size": Option(U32),
        "HTTP-response-header-size": _SIZE,
        "HTTP-response-body-size": Option(U64),
        "HTTP-response-trailer-section-size": Option(U32),
        "HTTP-response-trailer-size": _SIZE,
        "HTTP-response-transfer-coding": Option(STRING),
        "HTTP-response-content-coding": Option(STRING),
        "HTTP-response-timeout": None,
        "HTTP-upgrade-failed": None,
        "HTTP-protocol-error": None,
        "loop-detected": None,
        "configuration-error": None,
        "internal-error": Option(STRING),
    }
)
HEADER_ERROR = Variant({"invalid-syntax": None, "forbidden": None, "immutable": None})
_METHODS = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
METHOD = Variant({**dict.fromkeys(_METHODS), "other": STRING})
SCHEME = Variant({"HTTP": None, "HTTPS": None, "other": STRING})


class IncomingMessage:
    """What requests and responses that come in have in common."""

    def __init__(self, headers: Headers, source: BodySource) -> None:
        self.headers = headers
        self._source = source
        self._consumed = False

    def consume(self) -> IncomingBody:
        """Its body, once. Raises `ErrorResult`."""
        if self._consumed:
            raise ErrorResult
        self._consumed = True
        return IncomingBody(self._source)


class IncomingRequest(IncomingMessage, Resource):
    """`incoming-request`"""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(permitted(exchange.head.headers), exchange.source)
        self.head = exchange.head


class IncomingResponse(IncomingMessage, Resource):
    """`incoming-response`"""

    def __init__(self, status: int, headers: Headers, source: BodySource) -> None:
        super().__init__(permitted(headers), source)
        self.status = status


class ResponseOutparam(Resource):
    """`response-outparam`"""


class OutgoingResponse(Resource):
    """`outgoing-response`"""

    def __init__(self, headers: Fields) -> None:
        self.status = 200
        self.headers = headers
        headers.frozen = True
        self.body: OutgoingBody | None = None

    def begin_body(self) -> OutgoingBody:
        """Its body, once. Raises `ErrorResult`."""
        if self.body is not None:
            raise ErrorResult
        self.body = OutgoingBody(lambda: content_length(self.headers.entries))
        return self.body


TYPES = Interface(
    "wasi:http/types",
    fields=Fields,
    incoming_request=IncomingRequest,
    incoming_response=IncomingResponse,
    incoming_body=IncomingBody,
    future_trailers=FutureTrailers,
    response_outparam=ResponseOutparam,
    outgoing_response=OutgoingResponse,
    outgoing_body=OutgoingBody,
)

_FIELDS = Borrow(Fields)
_REQUEST = Borrow(IncomingRequest)
_RESPONSE = Borrow(IncomingResponse)
_OUTGOING_RESPONSE = Borrow(OutgoingResponse)
_TRAILERS = Option(Own(Fields))


@TYPES.function("http-error-code", Borrow(IoError), gives=Option(ERROR_CODE))
def http_error_code(_host: Host, error: IoError) -> tuple[str, Any] | None:
    return error.code


@TYPES.function("[constructor]fields", gives=Own(Fields))
def new_fields(_host: Host) -> Fields:
    return Fields()


@TYPES.function("[static]fields.from-list", List(Tuple(STRING, BYTES)), gives=Result(Own(Fields), HEADER_ERROR))
def fields_from_list(_host: Host, entries: list[tuple[str, bytes]]) -> Fields:
    for name, _ in entries:
        check_name(name)
    fields = Fields((name, checked_value(value)) for name, value in entries)
    fields.check_size()
    return fields


@TYPES.function("[method]fields.get", _FIELDS, STRING, gives=List(BYTES))
def fields_get(_host: Host, fields: Fields, name: str) -> list[bytes]:
    return fields.get(name)


@TYPES.function("[method]fields.has", _FIELDS, STRING, gives=BOOL)
def fields_has(_host: Host, fields: Fields, name: str) -> bool:
    return bool(fields.get(name))


@TYPES.function("[method]fields.set", _FIELDS, STRING, List(BYTES), gives=Result(None, HEADER_ERROR))
def fields_set(_host: Host, fields: Fields, name: str, values: list[bytes]) -> None:
    fields.set(name, values)


@TYPES.function("[method]fields.append", _FIELDS, STRING, BYTES, gives=Result(None, HEADER_ERROR))
def fields_append(_host: Host, fields: Fields, name: str, value: bytes) -> None:
    fields.append(name, value)


@TYPES.function("[method]fields.delete", _FIELDS, STRING, gives=Result(None, HEADER_ERROR))
def fields_delete(_host: Host, fields: Fields, name: str) -> None:
    fields.delete(name)


@TYPES.function("[method]fields.entries", _FIELDS, gives=List(Tuple(STRING, BYTES)))
def fields_entries(_host: Host, fields: Fields) -> list[tuple[str, bytes]]:
    return fields.entries


@TYPES.function("[method]fields.clone", _FIELDS, gives=Own(Fields))
def fields_clone(_host: Host, fields: Fields) -> Fields:
    return Fields(fields.entries)


@TYPES.function("[method]incoming-request.method", _REQUEST, gives=METHOD)
def request_method(_host: Host, request: IncomingRequest) -> tuple[str, str | None]:
    lowered = request.head.method.lower()
    known = lowered in _METHODS and request.head.method.isupper()
    return (lowered, None) if known else ("other", request.head.method)


@TYPES.function("[method]incoming-request.path-with-query", _REQUEST, gives=Option(STRING))
def request_path(_host: Host, request: IncomingRequest) -> str:
    return request.head.path


@TYPES.function("[method]incoming-request.scheme", _REQUEST, gives=Option(SCHEME))
def request_scheme(_host: Host, _request: IncomingRequest) -> tuple[str, None]:
    return "HTTPS", None


@TYPES.function("[method]incoming-request.authority", _REQUEST, gives=Option(STRING))
def request_authority(_host: Host, request: IncomingRequest) -> str:
    return request.head.authority


@TYPES.function("[method]incoming-request.headers", _REQUEST, gives=Own(Fields))
@TYPES.function("[method]incoming-response.headers", _RESPONSE, gives=Own(Fields))
def incoming_headers(_host: Host, message: IncomingMessage) -> Fields:
    return Fields(message.headers, frozen=True)


@TYPES.function("[method]incoming-request.consume", _REQUEST, gives=Result(Own(IncomingBody)))
@TYPES.function("[method]incoming-response.consume", _RESPONSE, gives=Result(Own(IncomingBody)))
def consume(_host: Host, message: IncomingMessage) -> IncomingBody:
    return message.consume()


@TYPES.function("[method]incoming-response.status", _RESPONSE, gives=U16)
def response_status(_host: Host, response: IncomingResponse) -> int:
    return response.status


@TYPES.function("[method]incoming-body.stream", Borrow(IncomingBody), gives=Result(Own(InputStream)))
def body_stream(_host: Host, body: IncomingBody) -> InputStream:
    return body.stream()


@TYPES.function("[static]incoming-body.finish", Own(IncomingBody), gives=Own(FutureTrailers))
def finish_incoming(_host: Host, body: IncomingBody) -> FutureTrailers:
    return FutureTrailers(body.source)


@TYPES.function("[method]future-trailers.subscribe", Borrow(FutureTrailers), gives=Own(Pollable))
def subscribe_to_trailers(_host: Host, future: FutureTrailers) -> Pollable:
    return future.pollable()


@TYPES.function(
    "[method]future-trailers.get",
    Borrow(FutureTrailers),
    gives=Option(Result(Result(_TRAILERS, ERROR_CODE))),
)
def get_trailers(_host: Host, future: FutureTrailers) -> tuple[bool, Any] | None:
    return future.get()


@TYPES.function("[constructor]outgoing-response", Own(Fields), gives=Own(OutgoingResponse))
def new_response(_host: Host, headers: Fields) -> OutgoingResponse:
    return OutgoingResponse(headers)


@TYPES.function("[method]outgoing-response.status-code", _OUTGOING_RESPONSE, gives=U16)
def outgoing_status(_host: Host, response: OutgoingResponse) -> int:
    return response.status


@TYPES.function("[method]outgoing-response.set-status-code", _OUTGOING_RESPONSE, U16, gives=Result())
def set_status(_host: Host, response: OutgoingResponse, status: int) -> None:
    # 1xx are no final responses, and three digits are all that HTTP/1.1 has.
    if not 200 <= status <= 999:
        raise ErrorResult
    response.status = status


@TYPES.function("[method]outgoing-response.headers", _OUTGOING_RESPONSE, gives=Own(Fields))
def outgoing_headers(_host: Host, response: OutgoingResponse) -> Fields:
    return Fields(response.headers.entries, frozen=True)


@TYPES.function("[method]outgoing-response.body", _OUTGOING_RESPONSE, gives=Result(Own(OutgoingBody)))
def response_body(_host: Host, response: OutgoingResponse) -> OutgoingBody:
    return response.begin_body()


@TYPES.function("[method]outgoing-body.write", Borrow(OutgoingBody), gives=Result(Own(OutputStream)))
def write_body(_host: Host, body: OutgoingBody) -> OutputStream:
    return body.stream()


@TYPES.function("[static]outgoing-body.finish", Own(OutgoingBody), _TRAILERS, gives=Result(None, ERROR_CODE))
def finish_outgoing(_host: Host, body: OutgoingBody, trailers: Fields | None) -> None:
    body.finish(() if trailers is None else tuple(trailers.entries))


@TYPES.function("[static]response-outparam.set", Own(ResponseOutparam), Result(Own(OutgoingResponse), ERROR_CODE))
def set_response(host: Host, _outparam: ResponseOutparam, given: tuple[bool, Any]) -> None:
    exchange = host.exchange
    if exchange is None:
        raise GuestFaultError("no request is being answered")
    is_ok, outcome = given
    if not is_ok:
        case, payload = outcome
        exchange.error_code = case if payload is None else f"{case}: {payload}"
        return
    response: OutgoingResponse = outcome
    sink = exchange.respond(ResponseHead(response.status, permitted(response.headers.entries)))
    if response.body is None:
        sink.end(())
    else:
        response.body.attach(sink)


@TYPES.function(
    "[method]response-outparam.send-informational",
    Borrow(ResponseOutparam),
    U16,
    Own(Fields),
    gives=Result(None, ERROR_CODE),
)
def send_informational(_host: Host, _outparam: ResponseOutparam, _status: int, _headers: Fields) -> None:
    raise ErrorResult(("configuration-error", None))
