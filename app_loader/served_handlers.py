"""What the routes about the newest calls and HTTP requests do."""

from __future__ import annotations

from app_loader.keep import Keep
from app_loader.messages import Request, Response, json_response
from keep_protocol.served_api import CallList, RequestList


async def list_calls(keep: Keep, request: Request) -> Response:
    """The newest calls that are over."""
    request.query()
    return json_response(CallList(keep.calls.records()))


async def list_requests(keep: Keep, request: Request) -> Response:
    """The newest HTTP requests to the workload that are over."""
    request.query()
    return json_response(RequestList(keep.http.records()))
