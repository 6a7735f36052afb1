"""The keep's API as one table: who may ask what, what answers it, and how it is described."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from app_loader import handlers
from app_loader.messages import BYTES_MEDIA_TYPE, JSON_MEDIA_TYPE
from app_loader.route import Content, Deferred, Parameter, Route
from keep_protocol.keep_api import (
    CMW_MEDIA_TYPE,
    PYTHON_MEDIA_TYPE,
    WASM_MEDIA_TYPE,
    AttestationRequest,
    CallRequest,
    CallResult,
    FileList,
    FileStored,
    KeepStatus,
    Run,
    RunList,
    RunRequest,
    WorkloadInfo,
)
from keep_protocol.secret_api import MAX_TTL, SecretInfo, SecretList
from keep_protocol.states import FileArea, KeepRole


def _http(method: str) -> Route:
    """The workload's own HTTP."""
    body = BYTES_MEDIA_TYPE if method in {"POST", "PUT", "PATCH"} else None
    summary = "Let a fresh instance of the workload answer this request"
    answers = {HTTPStatus.OK: (BYTES_MEDIA_TYPE,)}
    path = "/v1/http/{path}"
    return Route(method, path, CALLERS, handlers.http, summary, answers=answers, body=body, frequent=True, foreign=True)


def _at_port(method: str) -> Route:
    summary = "Let the workload answer"
    return Route(method, "/{path}", CALLERS, handlers.http_at_port, summary, answers={}, frequent=True, foreign=True)


HTTP_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

EVERYBODY: Final = frozenset(KeepRole)
OWNER: Final = frozenset({KeepRole.OWNER})
CALLERS: Final = frozenset({KeepRole.OWNER, KeepRole.CALLER})
DATA_PROVIDERS: Final = frozenset({KeepRole.OWNER, KeepRole.DATA_PROVIDER})
RESULT_CONSUMERS: Final = frozenset({KeepRole.OWNER, KeepRole.RESULT_CONSUMER})
ENVELOPE_CARRIERS: Final = DATA_PROVIDERS | RESULT_CONSUMERS
"""Envelopes tell nothing to whoever carries them from keep to keep."""
OUTPUT_READERS: Final = CALLERS | RESULT_CONSUMERS
RUN_READERS: Final = OUTPUT_READERS | {KeepRole.AUDITOR}
AUDITORS: Final = OWNER | {KeepRole.AUDITOR}

_OK: Final = HTTPStatus.OK
_CREATED: Final = HTTPStatus.CREATED
_ACCEPTED: Final = HTTPStatus.ACCEPTED
_NOTHING: Final[Mapping[HTTPStatus, tuple[Content, ...]]] = {HTTPStatus.NO_CONTENT: ()}

_DIGEST: Final = {
    "Content-Digest": Parameter(
        "`sha-256=:BASE64:` (RFC 9530) of the body; compared before anything is kept",
        {"type": "string", "pattern": "^sha-256=:[A-Za-z0-9+/]{43}=:$"},
    )
}
_UPLOAD: Final = {
    **_DIGEST,
    "Content-Encoding": Parameter(
        "how the body is coded; `limits.workload` counts it decoded", {"type": "string", "enum": ["gzip", "zstd"]}
    ),
}
_WAIT: Final = {
    "Prefer": Parameter(
        "`wait=N` (RFC 7240): answer when the run has ended, after N seconds at the latest", {"type": "string"}
    )
}
_OUTPUT: Final = {
    "offset": Parameter("first byte wanted, from 0", {"type": "integer", "minimum": 0, "maximum": 10**16 - 1}),
    "follow": Parameter("1: keep the response open until the run has ended", {"type": "integer", "enum": [0, 1]}),
}
_OFFSET_SENT: Final = {"Wasmkeep-Offset": "the byte of the output with which the answer begins"}


def _files(
    area: FileArea, *, put: frozenset[KeepRole], get: frozenset[KeepRole], delete: frozenset[KeepRole]
) -> tuple[Route, ...]:
    path = f"/v1/files/{area.value}/{{path}}"
    return (
        Route(
            "PUT",
            path,
            put,
            handlers.put_file,
            f"Store a file in `{area.value}`, or make a folder when the path ends with `/`",
            area=area,
            body=BYTES_MEDIA_TYPE,
            headers=_DIGEST,
            answers={_OK: (FileStored,), _CREATED: (FileStored,)},
        ),
        Route(
            "GET",
            path,
            get,
            handlers.get_file,
            f"Fetch a file of `{area.value}`, or list a folder",
            area=area,
            answers={_OK: (FileList, BYTES_MEDIA_TYPE)},
        ),
        Route(
            "DELETE",
            path,
            delete,
            handlers.delete_file,
            f"Remove a file of `{area.value}`, or a folder with all that is in it",
            area=area,
            answers=_NOTHING,
        ),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/v1/status",
        EVERYBODY,
        handlers.status,
        "The keep about itself and who asks",
        answers={_OK: (KeepStatus,)},
    ),
    Route(
        "GET", "/v1/openapi.json", EVERYBODY, handlers.openapi, "This description", answers={_OK: (JSON_MEDIA_TYPE,)}
    ),
    Route(
        "POST",
        "/v1/attestation",
        EVERYBODY,
        handlers.attest,
        "Fresh evidence of what the keep is, bound to the nonce and to this TLS connection",
        body=AttestationRequest,
        answers={_OK: (CMW_MEDIA_TYPE,)},
    ),
    Route("GET", "/v1/workload", EVERYBODY, handlers.get_workload, "What is loaded", answers={_OK: (WorkloadInfo,)}),
    Route(
        "PUT",
        "/v1/workload",
        OWNER,
        handlers.put_workload,
        "Load a workload in place of the one there is",
        body=WASM_MEDIA_TYPE,
        query={
            "runtime": Parameter(
                "for Python source, Content-Type `text/x-python`: SHA-256 in hex of the component that runs it, loaded "
                "before",
                {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            )
        },
        headers=_UPLOAD,
        coded=True,
        other_bodies=(PYTHON_MEDIA_TYPE,),
        answers={_OK: (WorkloadInfo,)},
    ),
    Route(
        "GET",
        "/v1/configuration",
        EVERYBODY,
        handlers.get_configuration,
        "How the workload is run: the bytes whose SHA-256 evidence names",
        sends={"Content-Digest": "`sha-256=:BASE64:` (RFC 9530) of the body"},
        answers={_OK: (Deferred("keep_protocol.workload_configuration", "WorkloadConfiguration"),)},
    ),
    Route(
        "PUT",
        "/v1/configuration",
        OWNER,
        handlers.put_configuration,
        "Say how the workload is run, in place of what was said before",
        body=Deferred("keep_protocol.workload_configuration", "WorkloadConfiguration"),
        answers={_OK: (Deferred("keep_protocol.workload_configuration", "ConfigurationInfo"),)},
    ),
    Route(
        "DELETE",
        "/v1/configuration",
        OWNER,
        handlers.delete_configuration,
        "Run the workload as is usual again",
        answers=_NOTHING,
    ),
    Route("DELETE", "/v1/workload", OWNER, handlers.delete_workload, "Forget the workload", answers=_NOTHING),
    Route(
        "POST",
        "/v1/runs",
        CALLERS,
        handlers.start_run,
        "Start a run",
        body=RunRequest,
        headers=_WAIT,
        sends={"Location": "path of the run"},
        answers={_OK: (Run,), _ACCEPTED: (Run,)},
    ),
    Route(
        "POST",
        "/v1/call/{function}",
        CALLERS,
        handlers.call,
        "Call an exported function in a fresh instance and answer with what it returns",
        body=CallRequest,
        answers={_OK: (CallResult,)},
        frequent=True,
    ),
    Route(
        "GET",
        "/v1/calls",
        RUN_READERS,
        Deferred("app_loader.served_handlers", "list_calls"),
        "The newest calls of this life of the keep: how each ended and what it used, without arguments and results",
        answers={_OK: (Deferred("keep_protocol.served_api", "CallList"),)},
    ),
    *(_http(method) for method in HTTP_METHODS),
    Route(
        "GET",
        "/v1/http-requests",
        AUDITORS,
        Deferred("app_loader.served_handlers", "list_requests"),
        "The newest HTTP requests to the workload in this life of the keep: how each ended and what it used",
        answers={_OK: (Deferred("keep_protocol.served_api", "RequestList"),)},
    ),
    Route(
        "GET",
        "/v1/http-log",
        OWNER,
        handlers.http_log,
        "What the workload printed while it answered HTTP requests: the newest lines of this life of the keep",
        query={"offset": _OUTPUT["offset"]},
        sends={"Wasmkeep-Offset": "the byte with which the answer begins; older ones are forgotten"},
        answers={_OK: (BYTES_MEDIA_TYPE,)},
    ),
    Route("GET", "/v1/runs", RUN_READERS, handlers.list_runs, "All runs, oldest first", answers={_OK: (RunList,)}),
    Route(
        "GET",
        "/v1/runs/{run}",
        RUN_READERS,
        handlers.get_run,
        "One run",
        headers=_WAIT,
        answers={_OK: (Run,)},
    ),
    Route(
        "GET",
        "/v1/runs/{run}/stdout",
        OUTPUT_READERS,
        handlers.get_stdout,
        "What a run wrote to standard output",
        query=_OUTPUT,
        sends=_OFFSET_SENT,
        answers={_OK: (BYTES_MEDIA_TYPE,)},
    ),
    Route(
        "GET",
        "/v1/runs/{run}/stderr",
        OUTPUT_READERS,
        handlers.get_stderr,
        "What a run wrote to standard error",
        query=_OUTPUT,
        sends=_OFFSET_SENT,
        answers={_OK: (BYTES_MEDIA_TYPE,)},
    ),
    Route(
        "PUT",
        "/v1/runs/{run}/stdin",
        CALLERS,
        handlers.put_stdin,
        "Feed a run whose standard input is a stream; the end of the body is the end of input",
        body=BYTES_MEDIA_TYPE,
        answers=_NOTHING,
    ),
    Route("POST", "/v1/runs/{run}/stop", CALLERS, handlers.stop_run, "Kill a run", answers={_OK: (Run,)}),
    Route(
        "GET",
        "/v1/secrets",
        DATA_PROVIDERS,
        Deferred("app_loader.secret_handlers", "list_secrets"),
        "Names, sizes and times of the secrets, never their values, and how those stand that the keep fetches",
        answers={_OK: (SecretList,)},
    ),
    Route(
        "PUT",
        "/v1/secrets/{secret}",
        DATA_PROVIDERS,
        Deferred("app_loader.secret_handlers", "put_secret"),
        "Keep a secret in memory, in place of the one there is; on a connection with evidence, if the keep has any",
        body=BYTES_MEDIA_TYPE,
        query={
            "ttl": Parameter(
                "seconds after which it is forgotten; without it, when the keep ends",
                {"type": "integer", "minimum": 1, "maximum": MAX_TTL},
            )
        },
        answers={_OK: (SecretInfo,), _CREATED: (SecretInfo,)},
    ),
    Route(
        "DELETE",
        "/v1/secrets/{secret}",
        DATA_PROVIDERS,
        Deferred("app_loader.secret_handlers", "delete_secret"),
        "Forget a secret; runs that have it keep it",
        answers=_NOTHING,
    ),
    Route(
        "POST",
        "/v1/seal",
        OWNER,
        Deferred("app_loader.sealing_handlers", "seal"),
        "Seal data so that only this keep, or one like it, unseals it",
        body=Deferred("keep_protocol.sealing_api", "SealRequest"),
        answers={_OK: (Deferred("keep_protocol.sealing_api", "Sealed"),)},
    ),
    Route(
        "POST",
        "/v1/unseal",
        OWNER,
        Deferred("app_loader.sealing_handlers", "unseal"),
        "Open what was sealed, if it is no older than it must be",
        body=Deferred("keep_protocol.sealing_api", "UnsealRequest"),
        answers={_OK: (Deferred("keep_protocol.sealing_api", "Unsealed"),)},
    ),
    Route(
        "GET",
        "/v1/events",
        AUDITORS,
        Deferred("app_loader.network_handlers", "list_events"),
        "What happened in this life of the keep: denied connections, secrets, ends of runs, failed calls and requests",
        query={
            "cursor": Parameter("only what came after this event", {"type": "integer", "minimum": 0}),
            "limit": Parameter("at most so many", {"type": "integer", "minimum": 1, "maximum": 1000}),
        },
        answers={_OK: (Deferred("keep_protocol.network_api", "KeepEventList"),)},
    ),
    Route(
        "POST",
        "/v1/egress/explain",
        AUDITORS,
        Deferred("app_loader.network_handlers", "explain_egress"),
        "Whether the keep may connect to somebody, rule by rule; it connects to nobody",
        body=Deferred("keep_protocol.network_api", "EgressQuestion"),
        answers={_OK: (Deferred("keep_protocol.network_api", "EgressExplanation"),)},
    ),
    *_files(FileArea.INPUT, put=DATA_PROVIDERS, get=DATA_PROVIDERS, delete=DATA_PROVIDERS),
    *_files(FileArea.OUTPUT, put=OWNER, get=RESULT_CONSUMERS, delete=OWNER),
    *_files(FileArea.DATA, put=OWNER, get=OWNER, delete=OWNER),
    *_files(FileArea.SEALED, put=ENVELOPE_CARRIERS, get=ENVELOPE_CARRIERS, delete=OWNER),
)

PORT_ROUTES: Final = tuple(map(_at_port, HTTP_METHODS))
"""Of the workload's own port: every path is the workload's."""
