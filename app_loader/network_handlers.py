"""What the routes about a keep's network do: its events, and what its egress policy says of somebody."""

from __future__ import annotations

import re
from typing import Final

from app_loader.errors import NetworkUnavailableError
from app_loader.keep import Keep
from app_loader.messages import Request, Response, json_response
from keep_protocol.errors import ErrorCode, RefusalError
from keep_protocol.network_api import EgressExplanation, EgressQuestion

MAX_PAGE: Final = 1000

_NUMBER: Final = re.compile(r"\d{1,15}", re.ASCII)


async def list_events(keep: Keep, request: Request) -> Response:
    """What happened after `cursor`."""
    query = request.query("cursor", "limit")
    cursor, limit = (_number(query, name, default) for name, default in (("cursor", 0), ("limit", 100)))
    if not 1 <= limit <= MAX_PAGE:
        raise RefusalError(ErrorCode.FIELD_INVALID, f"`limit` is a number from 1 to {MAX_PAGE}", field="limit")
    return json_response(keep.events.page(cursor, limit))


async def explain_egress(keep: Keep, request: Request) -> Response:
    """Whether the keep may connect to somebody, rule by rule; nobody is connected to."""
    from keep_protocol.egress.decision import explain
    from keep_protocol.egress.errors import EgressError
    from keep_protocol.egress.rules import EgressPolicy
    from keep_protocol.egress.targets import parse_target, target_of

    request.query()
    question = await request.json(EgressQuestion)
    try:
        if question.url is not None:
            target = parse_target(question.url, question.method)
        else:
            target = target_of(question.host or "", question.port or 0, question.method)
    except EgressError as error:
        field = "$.host" if question.url is None else "$.url"
        raise RefusalError(ErrorCode.FIELD_INVALID, str(error), field=field) from None
    try:
        decision = await keep.network().explain(str(target.host), target.port, method=target.method)
    except NetworkUnavailableError as error:
        unresolved = explain(EgressPolicy.of(keep.spec.network.egress), target)
        return json_response(EgressExplanation(unresolved, str(error)))
    return json_response(EgressExplanation(decision, None))


def _number(query: dict[str, str], name: str, default: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not _NUMBER.fullmatch(value):
        raise RefusalError(ErrorCode.FIELD_INVALID, f"`{name}` is a number", field=name)
    return int(value)
