"""The routes about a keep's network as calls."""

from __future__ import annotations

import msgspec

from keep_client.calls import Call, Request, expect_json
from keep_protocol.network_api import EgressExplanation, EgressQuestion, KeepEventList


def list_events(cursor: int, limit: int) -> Call[KeepEventList]:
    """`GET /v1/events`"""
    return Call(
        Request("GET", f"/v1/events?cursor={cursor}&limit={limit}", repeatable=True), expect_json(KeepEventList)
    )


def explain_egress(url: str, method: str | None) -> Call[EgressExplanation]:
    """`POST /v1/egress/explain`"""
    body = msgspec.json.encode(EgressQuestion(url=url, method=method))
    headers = {"content-type": "application/json"}
    return Call(
        Request("POST", "/v1/egress/explain", headers=headers, body=body, repeatable=True),
        expect_json(EgressExplanation),
    )
