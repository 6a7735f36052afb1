"""What can isolate keeps on this host."""

from __future__ import annotations

from starlette.responses import Response

from keep_manager.backends import backends
from keep_manager.hardware import attesters
from keep_manager.route import SEEING, Call, Route, json_response
from keep_protocol.manager_api import BackendList


async def list_backends(call: Call) -> Response:
    """Every backend with its checks, looked at now."""
    context = call.context
    found = backends(context.supervisor, await context.machines.backends())
    return json_response(BackendList(found, attesters(context.settings.tpm)))


ROUTES = (
    Route("GET", "/v1/backends", SEEING, list_backends, "Backends and what they lack here", response=BackendList),
)
