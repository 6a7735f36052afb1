"""The routes of a keep's API as calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from keep_client.addresses import relative_path, segment
from keep_client.calls import (
    READ_TIMEOUT,
    Call,
    Head,
    Request,
    StreamCall,
    expect_bytes,
    expect_json,
    expect_nothing,
)
from keep_client.errors import InvalidArgumentError, NotAFileError, NotAFolderError, ProtocolError
from keep_client.sources import Source
from keep_protocol.keep_api import (
    PYTHON_MEDIA_TYPE,
    WASM_MEDIA_TYPE,
    CallRequest,
    CallResult,
    FileList,
    FileStored,
    KeepStatus,
    Run,
    RunList,
    RunRequest,
    ServedUsage,
    WorkloadInfo,
)
from keep_protocol.python_source import python_digest
from keep_protocol.served_api import CallList, RequestList
from keep_protocol.states import FileArea
from keep_protocol.workload_configuration import (
    ConfigurationInfo,
    WorkloadConfiguration,
    canonical,
    configuration_digest,
)

LOAD_TIMEOUT = 300.0
"""Seconds that a keep may take to compile a workload after its last byte."""

LONGEST_WAIT = 20.0
"""Seconds that one request asks a keep to wait for the end of a run."""

OutputStream = Literal["stdout", "stderr"]


def status() -> Call[KeepStatus]:
    """`GET /v1/status`"""
    return Call(_get("/v1/status"), expect_json(KeepStatus))


def openapi() -> Call[dict[str, Any]]:
    """`GET /v1/openapi.json`"""
    return Call(_get("/v1/openapi.json"), expect_json(dict[str, Any]))


def workload() -> Call[WorkloadInfo]:
    """`GET /v1/workload`"""
    return Call(_get("/v1/workload"), expect_json(WorkloadInfo))


def load_workload(source: Source) -> Call[WorkloadInfo]:
    """`PUT /v1/workload`; the answer must name the digest of what was sent."""
    return _load("/v1/workload", WASM_MEDIA_TYPE, source, source.decoded_digest.hex())


def load_python(source: Source, runtime: Source) -> Call[WorkloadInfo]:
    """`PUT /v1/workload` of Python source; the answer must name the digest of it and of its runtime."""
    digest = runtime.decoded_digest.hex()
    wanted = python_digest(digest, source.decoded_digest.hex())
    return _load(f"/v1/workload?runtime={digest}", PYTHON_MEDIA_TYPE, source, wanted)


def _load(target: str, media_type: str, source: Source, digest: str) -> Call[WorkloadInfo]:
    decode = expect_json(WorkloadInfo)

    def check(head: Head, body: bytes) -> WorkloadInfo:
        info = decode(head, body)
        if info.digest != digest:
            raise ProtocolError(f"the keep loaded {info.digest!a}, sent was {digest}")
        return info

    request = Request(
        "PUT",
        target,
        headers={"content-type": media_type, **source.headers},
        read_timeout=LOAD_TIMEOUT,
        repeatable=True,
    )
    return Call(request, check)


def remove_workload() -> Call[None]:
    """`DELETE /v1/workload`"""
    return Call(Request("DELETE", "/v1/workload"), expect_nothing)


def configuration() -> Call[WorkloadConfiguration]:
    """`GET /v1/configuration`"""
    return Call(_get("/v1/configuration"), expect_json(WorkloadConfiguration))


def configure(wanted: WorkloadConfiguration) -> Call[ConfigurationInfo]:
    """`PUT /v1/configuration`; the answer must name the digest of what was sent."""
    decode = expect_json(ConfigurationInfo)
    digest = configuration_digest(wanted)

    def check(head: Head, body: bytes) -> ConfigurationInfo:
        info = decode(head, body)
        if info.digest != digest:
            raise ProtocolError(f"the keep took over the configuration {info.digest!a}, sent was {digest}")
        return info

    request = Request(
        "PUT",
        "/v1/configuration",
        headers={"content-type": "application/json"},
        body=canonical(wanted),
        repeatable=True,
    )
    return Call(request, check)


def remove_configuration() -> Call[None]:
    """`DELETE /v1/configuration`"""
    return Call(Request("DELETE", "/v1/configuration"), expect_nothing)


def http_log(offset: int) -> Call[bytes]:
    """`GET /v1/http-log` from a byte on."""

    def decode(head: Head, body: bytes) -> bytes:
        expect_bytes(head)
        return body

    return Call(_get(f"/v1/http-log?offset={offset}"), decode)


def start_run(request: RunRequest, wait: float | None) -> Call[Run]:
    """`POST /v1/runs`; with `wait`, answered when the run has exited or after that many seconds."""
    headers = {"content-type": "application/json"} | _prefer(wait)
    body = msgspec.json.encode(request)
    return Call(
        Request("POST", "/v1/runs", headers=headers, body=body, read_timeout=READ_TIMEOUT + (wait or 0)),
        expect_json(Run),
    )


class Called(NamedTuple):
    """What a function returned, and what that took."""

    result: Any
    usage: ServedUsage | None


def call(function: str, arguments: Sequence[Any], memory: int | None, timeout: float | None) -> Call[Called]:
    """`POST /v1/call/{function}`; the guest decides how long that takes, up to `timeout`."""
    try:
        encoded = msgspec.json.encode(list(arguments))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the arguments have no form in JSON: {error}") from None
    request = CallRequest(msgspec.Raw(encoded), memory, timeout)
    decode = expect_json(CallResult)

    def result(head: Head, body: bytes) -> Called:
        answer = decode(head, body)
        try:
            return Called(msgspec.json.decode(answer.result), answer.usage)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"the result is out of range: {error}") from None

    return Call(
        Request(
            "POST",
            f"/v1/call/{segment(function)}",
            headers={"content-type": "application/json"},
            body=msgspec.json.encode(request),
            read_timeout=None,
        ),
        result,
    )


def list_calls() -> Call[CallList]:
    """`GET /v1/calls`"""
    return Call(_get("/v1/calls"), expect_json(CallList))


def list_http_requests() -> Call[RequestList]:
    """`GET /v1/http-requests`"""
    return Call(_get("/v1/http-requests"), expect_json(RequestList))


def list_runs() -> Call[RunList]:
    """`GET /v1/runs`"""
    return Call(_get("/v1/runs"), expect_json(RunList))


def get_run(run_id: str, wait: float | None = None) -> Call[Run]:
    """`GET /v1/runs/{id}`; a keep may answer at once in spite of `wait` (RFC 7240)."""
    request = Request(
        "GET", _run(run_id), headers=_prefer(wait), read_timeout=READ_TIMEOUT + (wait or 0), repeatable=True
    )
    return Call(request, expect_json(Run))


def patience(deadline: float | None) -> float:
    """How long the next `get_run` should wait; `deadline` is of the monotonic clock."""
    return LONGEST_WAIT if deadline is None else max(0.0, min(LONGEST_WAIT, deadline - time.monotonic()))


def pause(attempt: int) -> float:
    """Seconds between two `get_run` of one wait, for keeps that answer at once."""
    return min(0.02 * 1.5 ** min(attempt, 20), 1.0)


def stop_run(run_id: str) -> Call[Run]:
    """`POST /v1/runs/{id}/stop`"""
    return Call(Request("POST", f"{_run(run_id)}/stop"), expect_json(Run))


def output(run_id: str, stream: OutputStream, offset: int, follow: bool) -> StreamCall:
    """`GET /v1/runs/{id}/stdout|stderr`; followed until the run has exited."""
    target = f"{_run(run_id)}/{stream}?offset={offset}{'&follow=1' if follow else ''}"
    return StreamCall(Request("GET", target, read_timeout=None if follow else READ_TIMEOUT), expect_bytes)


def feed_stdin(run_id: str) -> Call[None]:
    """`PUT /v1/runs/{id}/stdin`; the guest decides how long that takes."""
    request = Request(
        "PUT", f"{_run(run_id)}/stdin", headers={"content-type": "application/octet-stream"}, read_timeout=None
    )
    return Call(request, expect_nothing)


def list_files(area: FileArea, path: str) -> Call[FileList]:
    """`GET /v1/files/{area}/{path}` of a folder."""

    def check(head: Head) -> None:
        if head.media_type != "application/json":
            raise NotAFolderError(f"/{area}/{path} is a file and no folder")

    return Call(_get(_file(area, path)), expect_json(FileList), check)


def read_file(area: FileArea, path: str) -> StreamCall:
    """`GET /v1/files/{area}/{path}` of a file."""

    def check(head: Head) -> None:
        if head.media_type == "application/json":
            raise NotAFileError(f"/{area}/{path} is a folder and no file")
        expect_bytes(head)

    return StreamCall(_get(_file(area, path)), check)


def put_file(area: FileArea, path: str, source: Source) -> Call[FileStored]:
    """`PUT /v1/files/{area}/{path}`; the answer must name the digest of what was sent."""
    decode = expect_json(FileStored)

    def check(head: Head, body: bytes) -> FileStored:
        stored = decode(head, body)
        if stored.digest != source.digest.hex():
            raise ProtocolError(f"the keep stored {stored.digest!a}, sent was {source.digest.hex()}")
        return stored

    headers = {"content-type": "application/octet-stream", **source.headers}
    return Call(Request("PUT", _file(area, path), headers=headers, repeatable=True), check)


def make_folder(area: FileArea, path: str) -> Call[None]:
    """`PUT /v1/files/{area}/{path}/`; a folder that exists stays as it is."""
    return Call(Request("PUT", f"{_file(area, path)}/", body=b"", repeatable=True), expect_nothing)


def remove_file(area: FileArea, path: str) -> Call[None]:
    """`DELETE /v1/files/{area}/{path}`, of a file or of a folder with all that it holds."""
    return Call(Request("DELETE", _file(area, path)), expect_nothing)


def _get(target: str) -> Request:
    return Request("GET", target, repeatable=True)


def _run(run_id: str) -> str:
    return f"/v1/runs/{segment(run_id)}"


def _file(area: FileArea, path: str) -> str:
    return f"/v1/files/{area}/{relative_path(path)}"


def _prefer(wait: float | None) -> dict[str, str]:
    # RFC 7240 knows whole seconds only.
    return {} if wait is None else {"prefer": f"wait={max(1, round(wait))}"}
