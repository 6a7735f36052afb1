"""What each route does: from a request to the keep's parts, and back to a response."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

from app_loader.keep import Keep
from app_loader.messages import BYTES_MEDIA_TYPE, JSON_MEDIA_TYPE, Request, Response, json_response, require_utf8
from keep_protocol import __version__
from keep_protocol.digests import DigestHeaderError, content_digest, parse_content_digest
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.keep_api import (
    CMW_MEDIA_TYPE,
    PYTHON_MEDIA_TYPE,
    WASM_MEDIA_TYPE,
    AttestationRequest,
    CallRequest,
    KeepStatus,
    RunList,
    RunRequest,
)
from keep_protocol.states import FileArea, KeepRole, RunState, WasmFeature, WorkloadKind

if TYPE_CHECKING:
    # Imported where it is used: most keeps have no configuration.
    from keep_protocol.workload_configuration import WorkloadConfiguration

MAX_WAIT: Final = 3600
"""Seconds of `Prefer: wait=N` (RFC 7240) that are granted; longer ones are cut to it."""

# Compiled when they are first used: every keep imports this at its start.
_WAIT: Final = r"(?ai)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:;.*)?"
_OFFSET: Final = r"(?a)\d{1,16}"


async def status(keep: Keep, request: Request) -> Response:
    """The keep about itself and about who asks."""
    request.query()
    configuration = keep.workload_configuration.digest
    return json_response(
        KeepStatus(
            id=keep.id,
            version=__version__,
            backend=keep.spec.backend,
            spec_digest=keep.spec_digest,
            invocation=keep.invocation,
            started_at=keep.started_at,
            workload=keep.workload.summary,
            runs_active=keep.runs.active,
            runs_queued=keep.runs.queued,
            files_used=await keep.files.used(),
            you=tuple(role for role in KeepRole if role in request.roles),
            configuration_digest=None if configuration is None else configuration.hex(),
            http_port=None if keep.http_port is None else keep.http_port.status,
            calls=keep.calls.counts,
            requests=keep.http.counts,
        )
    )


async def openapi(keep: Keep, request: Request) -> Response:
    """The description of this API."""
    # What makes schemas is imported only where somebody asks for them.
    from app_loader.openapi import document

    request.query()
    return Response(HTTPStatus.OK, document(), media_type=JSON_MEDIA_TYPE)


async def attest(keep: Keep, request: Request) -> Response:
    """Fresh evidence for a nonce, bound to the connection that asks."""
    request.query()
    evidence = keep.evidence
    if evidence is None:
        raise RefusalError(
            ErrorCode.EVIDENCE_UNAVAILABLE,
            "the spec of this keep asks for no evidence: its key is all that there is to check",
            remedy="create a keep whose spec names a kind of `evidence`",
        )
    nonce = binascii.a2b_base64((await request.json(AttestationRequest)).nonce)
    exporter = request.session.export(nonce)
    digest = keep.workload.info.digest
    workload = None if digest is None else bytes.fromhex(digest)
    configuration = keep.workload_configuration.digest
    await keep.attesting.acquire()
    making = asyncio.create_task(
        asyncio.to_thread(
            evidence.collection,
            keep.spki,
            nonce=nonce,
            exporter=exporter,
            workload_sha256=workload,
            configuration_sha256=configuration,
        )
    )
    # Not before the hardware is done, whether or not the client that asked is still there.
    making.add_done_callback(lambda _: keep.attesting.release())
    collection = await asyncio.shield(making)
    request.session.attested = True
    return Response(HTTPStatus.OK, collection, media_type=CMW_MEDIA_TYPE)


async def get_workload(keep: Keep, request: Request) -> Response:
    """What is loaded."""
    request.query()
    return json_response(keep.workload.info)


async def put_workload(keep: Keep, request: Request) -> Response:
    """Load another workload in place of the one there is."""
    from keep_protocol.configuration_check import check_workload

    def fits(kind: WorkloadKind, features: tuple[WasmFeature, ...]) -> None:
        check_workload(keep.workload_configuration.current_if_sound, kind)
        keep.workload_configuration.check_sockets(kind, features)

    runtime = request.query("runtime").get("runtime")
    chunks, digest, size = _upload(request, keep.spec.limits.workload)
    if _is_python(request):
        if runtime is None:
            raise RefusalError(
                ErrorCode.FIELD_INVALID,
                "Python source needs `?runtime=`: the SHA-256 of the component that runs it",
                field="runtime",
                remedy="load a Python runtime first; `keepctl run app.py` does all that",
            )
        info = await keep.workload.replace_python(chunks, runtime, expected_digest=digest, size=size, fits=fits)
        await asyncio.shield(keep.follow_workload())
        return json_response(info)
    request.require_media_type(WASM_MEDIA_TYPE, PYTHON_MEDIA_TYPE)
    if runtime is not None:
        raise RefusalError(
            ErrorCode.FIELD_INVALID, f"`runtime` comes with Content-Type {PYTHON_MEDIA_TYPE}", field="runtime"
        )
    info = await keep.workload.replace(chunks, expected_digest=digest, size=size, fits=fits)
    await asyncio.shield(keep.follow_workload())
    return json_response(info)


async def delete_workload(keep: Keep, request: Request) -> Response:
    """Forget the workload."""
    request.query()
    await keep.workload.remove()
    await asyncio.shield(keep.follow_workload())
    return _no_content()


async def get_configuration(keep: Keep, request: Request) -> Response:
    """What the owner has said about how the workload is run, in its canonical bytes."""
    from keep_protocol.workload_configuration import canonical

    request.query()
    content = canonical(keep.workload_configuration.require())
    digest = hashlib.sha256(content).digest()
    headers = {"content-digest": content_digest(digest)}
    return Response(HTTPStatus.OK, content, media_type=JSON_MEDIA_TYPE, headers=headers)


async def put_configuration(keep: Keep, request: Request) -> Response:
    """Say how the workload is run from now on, in place of what was said before."""
    from keep_protocol.configuration_check import check_workload
    from keep_protocol.workload_configuration import ConfigurationInfo, WorkloadConfiguration

    request.query()
    wanted = await request.json(WorkloadConfiguration)
    check_workload(wanted, keep.workload.kind)
    # A client that goes away now leaves one that has been taken over as a whole.
    digest = await asyncio.shield(_configure(keep, wanted))
    return json_response(ConfigurationInfo(digest))


async def _configure(keep: Keep, wanted: WorkloadConfiguration) -> str:
    digest = await keep.workload_configuration.replace(wanted)
    await keep.follow_workload()
    return digest


async def delete_configuration(keep: Keep, request: Request) -> Response:
    """Run the workload as is usual again."""
    request.query()
    await keep.workload_configuration.remove()
    await asyncio.shield(keep.follow_workload())
    return _no_content()


async def start_run(keep: Keep, request: Request) -> Response:
    """Start a run, and wait for its end as long as the client prefers."""
    from app_loader.run_plan import check_request_of_caller, secrets_of

    request.query()
    wait = _preferred_wait(request)
    wanted = await request.json(RunRequest)
    if KeepRole.OWNER not in request.roles:
        check_request_of_caller(wanted, keep.workload_configuration.current)
    if keep.secret_sources is not None:
        uses = secrets_of(wanted, keep.workload_configuration.current)
        await keep.secret_sources.require(use.name for use in uses)
    # A client that goes away now leaves a run that has been started as a whole.
    run = await asyncio.shield(keep.runs.start(wanted))
    if wait:
        run = await keep.runs.wait(run.id, wait)
    status = HTTPStatus.OK if run.state is RunState.EXITED else HTTPStatus.ACCEPTED
    return json_response(run, status, {"location": f"/v1/runs/{run.id}"})


async def call(keep: Keep, request: Request) -> Response:
    """Call a function of the workload."""
    request.query()
    wanted = await request.json(CallRequest)
    configuration = keep.workload_configuration.current_if_sound
    reuse = configuration is not None and configuration.reuse
    function = require_utf8(request.parameters["function"], "function")
    return json_response(await keep.calls.call(function, wanted, reuse=reuse))


async def http(keep: Keep, request: Request) -> Response:
    """Let the workload answer."""
    return await keep.http.answer(request, keep.network, keep.workload_configuration.current)


async def http_at_port(keep: Keep, request: Request) -> Response:
    """Let the workload answer at a port where all paths are its own."""
    return await keep.http.answer(request, keep.network, keep.workload_configuration.current, below=0)


async def http_log(keep: Keep, request: Request) -> Response:
    """What the workload has printed while it answered HTTP requests."""
    begin, lines = keep.http.log().read(_number_of_bytes(request.query("offset")))
    return Response(HTTPStatus.OK, lines, media_type=BYTES_MEDIA_TYPE, headers={"wasmkeep-offset": str(begin)})


async def list_runs(keep: Keep, request: Request) -> Response:
    """All runs that the keep remembers."""
    request.query()
    return json_response(RunList(runs=keep.runs.list()))


async def get_run(keep: Keep, request: Request) -> Response:
    """One run's record, at its end if the client prefers to wait for that."""
    request.query()
    run = keep.runs.get(request.parameters["run"])
    if wait := _preferred_wait(request):
        run = await keep.runs.wait(run.id, wait)
    return json_response(run)


async def get_stdout(keep: Keep, request: Request) -> Response:
    """What a run wrote to standard output."""
    return _output(keep, request, "stdout")


async def get_stderr(keep: Keep, request: Request) -> Response:
    """What a run wrote to standard error."""
    return _output(keep, request, "stderr")


async def put_stdin(keep: Keep, request: Request) -> Response:
    """Feed a run that was started with `stdin: "stream"`."""
    request.query()
    # People type slowly, and programs wait for events.
    request.body.patience = None
    await keep.runs.feed(request.parameters["run"], aiter(request.body))
    return _no_content()


async def stop_run(keep: Keep, request: Request) -> Response:
    """Kill a run."""
    request.query()
    return json_response(await keep.runs.stop(request.parameters["run"]))


async def put_file(keep: Keep, request: Request) -> Response:
    """Store a file, or make a folder when the path ends with `/`."""
    request.query()
    area, path = _place(request)
    if not path or path.endswith("/"):
        if await request.read(0):
            raise RefusalError(ErrorCode.BAD_REQUEST, "a folder is made without a body")
        folder, created = await keep.files.make_folder(area, path)
        return json_response(folder, HTTPStatus.CREATED if created else HTTPStatus.OK)
    stored, created = await keep.files.put(
        area, path, request.body, size=request.body.size, digest=_expected_digest(request)
    )
    return json_response(stored, HTTPStatus.CREATED if created else HTTPStatus.OK)


async def get_file(keep: Keep, request: Request) -> Response:
    """Fetch a file, or list a folder."""
    request.query()
    area, path = _place(request)
    if keep.files.is_folder(area, path):
        return json_response(await keep.files.list(area, path))
    content = keep.files.open(area, path)
    return Response(HTTPStatus.OK, content, media_type=BYTES_MEDIA_TYPE, size=content.size)


async def delete_file(keep: Keep, request: Request) -> Response:
    """Remove a file, or a folder with all that is in it."""
    request.query()
    area, path = _place(request)
    await keep.files.delete(area, path)
    return _no_content()


def _is_python(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == PYTHON_MEDIA_TYPE


def _upload(request: Request, limit: int) -> tuple[AsyncIterator[bytes], bytes | None, int | None]:
    """A body's content, and what is announced of it: digest and size, unless they are those of its coded form."""
    body, digest, size = aiter(request.body), _expected_digest(request), request.body.size
    header = request.headers.get("content-encoding")
    if header is None:
        return body, digest, size
    # Here, so that keeps to which nothing coded is sent do not pay for it.
    from app_loader.content_coding import coding_of, decoded

    coding = coding_of(header)
    if coding is None:
        return body, digest, size
    return decoded(body, coding, limit=limit, expected_digest=digest, size=size), None, None


def _place(request: Request) -> tuple[FileArea, str]:
    return FileArea(request.parameters["area"]), request.parameters["path"]


def _no_content() -> Response:
    return Response(HTTPStatus.NO_CONTENT)


def _expected_digest(request: Request) -> bytes | None:
    header = request.headers.get("content-digest")
    if header is None:
        return None
    try:
        return parse_content_digest(header)
    except DigestHeaderError as error:
        raise RefusalError(ErrorCode.DIGEST_INVALID, str(error), field="Content-Digest") from None


def _preferred_wait(request: Request) -> int:
    """Seconds of `Prefer: wait=N`; preferences that are unknown or malformed are ignored, as RFC 7240 asks."""
    for preference in request.headers.get("prefer", "").split(","):
        if match := re.fullmatch(_WAIT, preference):
            return min(int(match[1]), MAX_WAIT)
    return 0


def _output(keep: Keep, request: Request, stream: Literal["stdout", "stderr"]) -> Response:
    query = request.query("offset", "follow")
    offset = _number_of_bytes(query)
    follow = query.get("follow", "0")
    if follow not in {"0", "1"}:
        raise RefusalError(ErrorCode.FIELD_INVALID, "`follow` is 0 or 1", field="follow")
    chunks = keep.runs.output(request.parameters["run"], stream, offset=offset, follow=follow == "1")
    return Response(
        HTTPStatus.OK,
        _generated(chunks),
        media_type=BYTES_MEDIA_TYPE,
        headers={"wasmkeep-offset": str(offset)},
    )


def _number_of_bytes(query: dict[str, str]) -> int:
    offset = query.get("offset", "0")
    if not re.fullmatch(_OFFSET, offset):
        raise RefusalError(ErrorCode.FIELD_INVALID, "`offset` is a number of bytes", field="offset")
    return int(offset)


async def _generated(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in chunks:
        yield chunk
