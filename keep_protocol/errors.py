"""One code per situation: the same string in HTTP problems, SDK exceptions and messages of the CLIs."""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus

import msgspec


class ErrorCode(StrEnum):
    """Every refusal and failure that a manager or a keep reports."""

    # The request itself.
    BAD_REQUEST = "bad-request"
    HEAD_TOO_LARGE = "head-too-large"
    BODY_TOO_LARGE = "body-too-large"
    BODY_INCOMPLETE = "body-incomplete"
    MEDIA_TYPE_UNSUPPORTED = "media-type-unsupported"
    FIELD_INVALID = "field-invalid"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    ROUTE_NOT_FOUND = "route-not-found"
    REQUEST_TIMEOUT = "request-timeout"
    TOO_MANY_REQUESTS = "too-many-requests"
    # Who asks.
    IDENTITY_INVALID = "identity-invalid"
    CERTIFICATE_REVOKED = "certificate-revoked"
    CRL_UNUSABLE = "crl-unusable"
    FORBIDDEN = "forbidden"
    # The manager.
    KEEP_NOT_FOUND = "keep-not-found"
    KEEP_STATE_CONFLICT = "keep-state-conflict"
    KEEP_START_FAILED = "keep-start-failed"
    NAME_TAKEN = "name-taken"
    NAME_INVALID = "name-invalid"
    SPEC_INVALID = "spec-invalid"
    LIMIT_EXCEEDED = "limit-exceeded"
    QUOTA_EXCEEDED = "quota-exceeded"
    BACKEND_UNAVAILABLE = "backend-unavailable"
    OWNER_REFUSED = "owner-refused"
    ENDPOINT_TAKEN = "endpoint-taken"
    PORT_TAKEN = "port-taken"
    IDEMPOTENCY_MISMATCH = "idempotency-mismatch"
    SUPERVISOR_UNAVAILABLE = "supervisor-unavailable"
    CURSOR_INVALID = "cursor-invalid"
    # The keep.
    CONFIGURATION_INVALID = "configuration-invalid"
    CONFIGURATION_NOT_FOUND = "configuration-not-found"
    CONFIGURATION_REFUSED = "configuration-refused"
    WORKLOAD_EMPTY = "workload-empty"
    WORKLOAD_BUSY = "workload-busy"
    WORKLOAD_INVALID = "workload-invalid"
    WORKLOAD_DIGEST_MISMATCH = "workload-digest-mismatch"
    FEATURE_OFF = "feature-off"
    COMPILE_FAILED = "compile-failed"
    COMPILE_LIMIT = "compile-limit"
    DIGEST_INVALID = "digest-invalid"
    DIGEST_MISMATCH = "digest-mismatch"
    WORKLOAD_NOT_RUNNABLE = "workload-not-runnable"
    FUNCTION_NOT_FOUND = "function-not-found"
    FUNCTION_UNSUPPORTED = "function-unsupported"
    CALL_TRAPPED = "call-trapped"
    CALL_EXITED = "call-exited"
    CALL_MEMORY = "call-memory"
    CALL_TIMEOUT = "call-timeout"
    CALL_LOST = "call-lost"
    WORKLOAD_NOT_HTTP = "workload-not-http"
    HTTP_UNANSWERED = "http-unanswered"
    HTTP_TRAPPED = "http-trapped"
    HTTP_EXITED = "http-exited"
    HTTP_MEMORY = "http-memory"
    HTTP_TIMEOUT = "http-timeout"
    HTTP_LOST = "http-lost"
    RESULT_TOO_LARGE = "result-too-large"
    RUNTIME_NOT_FOUND = "runtime-not-found"
    RUN_NOT_FOUND = "run-not-found"
    RUN_STATE_CONFLICT = "run-state-conflict"
    STDIN_CONFLICT = "stdin-conflict"
    FILE_NOT_FOUND = "file-not-found"
    FILE_PATH_INVALID = "file-path-invalid"
    FILE_CONFLICT = "file-conflict"
    EVIDENCE_UNAVAILABLE = "evidence-unavailable"
    ATTESTATION_REQUIRED = "attestation-required"
    SECRET_NOT_FOUND = "secret-not-found"
    SECRET_PENDING = "secret-pending"
    SOCKET_UNAVAILABLE = "socket-unavailable"
    SECRET_UNUSABLE = "secret-unusable"
    SEALED_INVALID = "sealed-invalid"
    SEALING_KEY_UNKNOWN = "sealing-key-unknown"
    SEALING_UNAVAILABLE = "sealing-unavailable"
    ROLLBACK_REFUSED = "rollback-refused"
    OFFSET_INVALID = "offset-invalid"
    DISK_FULL = "disk-full"
    DISK_FAILED = "disk-failed"
    # Ours.
    INTERNAL = "internal"

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that goes with this code."""
        return _STATUS[self]

    @property
    def phrase(self) -> str:
        """The code as a phrase: `keep-not-found` is "Keep not found"."""
        return self.value.replace("-", " ").capitalize()


_STATUS = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.HEAD_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ErrorCode.BODY_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.BODY_INCOMPLETE: HTTPStatus.BAD_REQUEST,
    ErrorCode.MEDIA_TYPE_UNSUPPORTED: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.FIELD_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    ErrorCode.ROUTE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.REQUEST_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ErrorCode.TOO_MANY_REQUESTS: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.IDENTITY_INVALID: HTTPStatus.FORBIDDEN,
    ErrorCode.CERTIFICATE_REVOKED: HTTPStatus.FORBIDDEN,
    ErrorCode.CRL_UNUSABLE: HTTPStatus.FORBIDDEN,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.KEEP_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.KEEP_STATE_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.KEEP_START_FAILED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.NAME_TAKEN: HTTPStatus.CONFLICT,
    ErrorCode.NAME_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.SPEC_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.LIMIT_EXCEEDED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.QUOTA_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.BACKEND_UNAVAILABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.OWNER_REFUSED: HTTPStatus.CONFLICT,
    ErrorCode.ENDPOINT_TAKEN: HTTPStatus.CONFLICT,
    ErrorCode.PORT_TAKEN: HTTPStatus.CONFLICT,
    ErrorCode.IDEMPOTENCY_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.SUPERVISOR_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.CURSOR_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.CONFIGURATION_INVALID: HTTPStatus.CONFLICT,
    ErrorCode.CONFIGURATION_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.CONFIGURATION_REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.WORKLOAD_EMPTY: HTTPStatus.CONFLICT,
    ErrorCode.WORKLOAD_BUSY: HTTPStatus.CONFLICT,
    ErrorCode.WORKLOAD_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.WORKLOAD_DIGEST_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.FEATURE_OFF: HTTPStatus.CONFLICT,
    ErrorCode.COMPILE_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.COMPILE_LIMIT: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.DIGEST_INVALID: HTTPStatus.BAD_REQUEST,
    ErrorCode.DIGEST_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.WORKLOAD_NOT_RUNNABLE: HTTPStatus.CONFLICT,
    ErrorCode.FUNCTION_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.FUNCTION_UNSUPPORTED: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.CALL_TRAPPED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.CALL_EXITED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.CALL_MEMORY: HTTPStatus.BAD_GATEWAY,
    ErrorCode.CALL_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.CALL_LOST: HTTPStatus.BAD_GATEWAY,
    ErrorCode.WORKLOAD_NOT_HTTP: HTTPStatus.CONFLICT,
    ErrorCode.HTTP_UNANSWERED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.HTTP_TRAPPED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.HTTP_EXITED: HTTPStatus.BAD_GATEWAY,
    ErrorCode.HTTP_MEMORY: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.HTTP_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.HTTP_LOST: HTTPStatus.BAD_GATEWAY,
    ErrorCode.RESULT_TOO_LARGE: HTTPStatus.BAD_GATEWAY,
    ErrorCode.RUNTIME_NOT_FOUND: HTTPStatus.CONFLICT,
    ErrorCode.RUN_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.RUN_STATE_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.STDIN_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.FILE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.FILE_PATH_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.FILE_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.EVIDENCE_UNAVAILABLE: HTTPStatus.CONFLICT,
    ErrorCode.ATTESTATION_REQUIRED: HTTPStatus.FORBIDDEN,
    ErrorCode.SECRET_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.SECRET_PENDING: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SOCKET_UNAVAILABLE: HTTPStatus.BAD_GATEWAY,
    ErrorCode.SECRET_UNUSABLE: HTTPStatus.CONFLICT,
    ErrorCode.SEALED_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.SEALING_KEY_UNKNOWN: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.SEALING_UNAVAILABLE: HTTPStatus.CONFLICT,
    ErrorCode.ROLLBACK_REFUSED: HTTPStatus.CONFLICT,
    ErrorCode.OFFSET_INVALID: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    ErrorCode.DISK_FULL: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.DISK_FAILED: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An RFC 9457 problem: `application/problem+json`. Unknown members are allowed there, so here too."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    remedy: str | None = None
    trap: str | None = None
    """Of a call that failed: the name of its trap."""
    backtrace: tuple[str, ...] = ()
    """Of a call that failed: where the guest was, innermost first."""


PROBLEM_MEDIA_TYPE = "application/problem+json"
PROBLEM_HEADER = "wasmkeep-problem"
"""Header with the code of a keep's problem. No workload can send it: it tells a keep's answer from its workload's."""


class RefusalError(Exception):
    """A request is refused for a reason that its sender can read and act upon."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        trap: str | None = None,
        backtrace: tuple[str, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.remedy = remedy
        self.trap = trap
        self.backtrace = backtrace

    def problem(self) -> Problem:
        """What goes over the wire."""
        return Problem(
            type=f"urn:wasmkeep:problem:{self.code.value}",
            title=self.code.phrase,
            status=self.code.status.value,
            detail=self.detail,
            code=self.code.value,
            field=self.field,
            remedy=self.remedy,
            trap=self.trap,
            backtrace=self.backtrace,
        )
