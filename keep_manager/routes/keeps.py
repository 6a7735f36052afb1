"""Keeps over HTTP; what happens is in `keep_manager.keeps`."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated

import msgspec
from starlette.responses import Response

from keep_manager.keep_log import tail
from keep_manager.route import MANAGING, SEEING, Call, Route, json_response
from keep_manager.sandbox import describe_sandbox
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.manager_api import BrokerInfo, CreateKeep, Keep, KeepDetail, KeepList, KeepRecord
from keep_protocol.names import unit_name
from keep_protocol.states import KeepState

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_REMEDIES = {
    KeepState.FAILED: "its logs say why (`keepctl logs`); it stays so until it is started (`keepctl start`)",
    KeepState.STOPPED: "start it (`keepctl start`)",
}
_ENFORCED = frozenset({"memory", "cpu", "tasks"})


class LogsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the end of a log."""

    lines: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200


async def create_keep(call: Call) -> Response:
    """Make a keep and wait until it answers; under an `Idempotency-Key` as often as one likes."""
    key = call.headers.get("idempotency-key")
    if key is not None and _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise RefusalError(
            ErrorCode.FIELD_INVALID, "Idempotency-Key is not 1 to 255 visible ASCII characters", field="Idempotency-Key"
        )
    body = await call.context.keeps.create(call.caller, call.body, call.digest, key)
    location = f"/v1/keeps/{msgspec.json.decode(body, type=_Id).id}"
    return json_response(body, HTTPStatus.CREATED, {"location": location})


async def list_keeps(call: Call) -> Response:
    """The keeps that the caller may see, from memory."""
    keeps = call.context.keeps
    stale = keeps.stale
    operator = call.caller.is_operator
    return json_response(
        KeepList(
            keeps=tuple(entry.wire(stale=stale) for entry in keeps.visible(call.caller)),
            orphans=tuple(sorted(keeps.orphans)) if operator else (),
            foreign=tuple(sorted(keeps.foreign)) if operator else (),
            stale=stale,
        )
    )


async def show_keep(call: Call) -> Response:
    """One keep, with what is known of its sandbox."""
    context = call.context
    entry = context.keeps.find(call.caller, call.path["ref"])
    instance = context.lifecycle.instance(entry)
    broker = None
    if entry.spec.network.names_anything:
        state = None if entry.broker is None else entry.broker.value
        broker = BrokerInfo(unit=f"keep-net@{instance}.service", state=state)
    return json_response(
        KeepDetail(
            keep=entry.wire(stale=context.keeps.stale),
            supervisor=context.supervisor.kind.value,
            unit=unit_name(instance),
            broker=broker,
            sandbox=await describe_sandbox(context.supervisor, entry.sandbox, machine=entry.spec.backend.is_machine),
            start=entry.start,
            limits_enforced=context.supervisor.promises.limits >= _ENFORCED,
            spec=entry.spec,
        )
    )


async def remove_keep(call: Call) -> Response:
    """Stop, wipe, forget; answers when it is done."""
    await call.context.keeps.remove(call.caller, call.path["ref"])
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def start_keep(call: Call) -> Response:
    """Start a keep that is stopped or failed."""
    return json_response(await call.context.keeps.start(call.caller, call.path["ref"]))


async def stop_keep(call: Call) -> Response:
    """Stop a keep; its files and its workload stay."""
    return json_response(await call.context.keeps.stop(call.caller, call.path["ref"]))


async def restart_keep(call: Call) -> Response:
    """Stop and start: another life, another key, the same endpoint."""
    return json_response(await call.context.keeps.restart(call.caller, call.path["ref"]))


async def show_record(call: Call) -> Response:
    """Endpoint and certificate of a ready keep, for its principals too."""
    entry = call.context.keeps.find_for_principal(call.caller, call.path["ref"])
    if (record := entry.record()) is None:
        raise RefusalError(
            ErrorCode.KEEP_STATE_CONFLICT,
            f"the keep is {entry.state}, and only a ready one has an endpoint that answers",
            remedy=_REMEDIES.get(entry.state, "repeat the request when it is ready"),
        )
    return json_response(record)


async def show_logs(call: Call) -> Response:
    """What the keep's loader wrote."""
    context = call.context
    entry = context.keeps.find(call.caller, call.path["ref"])
    text = tail(context.supervisor.log_path(context.lifecycle.instance(entry)), call.query.lines)
    return Response(text, media_type="text/plain; charset=utf-8")


class _Id(msgspec.Struct):
    """The one member of an answer that the `Location` is made of."""

    id: str


ROUTES = (
    Route(
        "POST",
        "/v1/keeps",
        MANAGING,
        create_keep,
        "Make a keep",
        request=CreateKeep,
        headers={"Idempotency-Key": _IDEMPOTENCY_KEY.pattern},
        sends={"Location": "path of the keep"},
        response=Keep,
        status=HTTPStatus.CREATED,
    ),
    Route("GET", "/v1/keeps", SEEING, list_keeps, "List keeps", response=KeepList),
    Route("GET", "/v1/keeps/{ref}", SEEING, show_keep, "One keep, by id or name", response=KeepDetail),
    Route(
        "DELETE",
        "/v1/keeps/{ref}",
        MANAGING,
        remove_keep,
        "Remove a keep",
        media_types=(),
        status=HTTPStatus.NO_CONTENT,
    ),
    Route("POST", "/v1/keeps/{ref}/start", MANAGING, start_keep, "Start a keep", response=Keep),
    Route("POST", "/v1/keeps/{ref}/stop", MANAGING, stop_keep, "Stop a keep", response=Keep),
    Route("POST", "/v1/keeps/{ref}/restart", MANAGING, restart_keep, "Restart a keep", response=Keep),
    Route(
        "GET",
        "/v1/keeps/{ref}/record",
        SEEING,
        show_record,
        "What a principal needs to reach a keep and to check it",
        response=KeepRecord,
        principals=True,
    ),
    Route(
        "GET",
        "/v1/keeps/{ref}/logs",
        SEEING,
        show_logs,
        "The end of a keep's log",
        query=LogsQuery,
        media_types=("text/plain",),
    ),
)
