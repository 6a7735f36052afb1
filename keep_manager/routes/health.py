"""The manager about itself."""

from __future__ import annotations

from starlette.responses import Response

from keep_manager.route import SEEING, Call, Route, json_response
from keep_protocol import __version__
from keep_protocol.manager_api import Health


async def show_health(call: Call) -> Response:
    """Degraded: the supervisor does not answer, or the newest roles table is not usable."""
    context, supervisor = call.context, call.context.supervisor
    sound = supervisor.alive and context.roles.error is None
    return json_response(
        Health(
            status="ok" if sound else "degraded",
            version=__version__,
            deployment=context.settings.deployment,
            supervisor=supervisor.kind.value,
            supervisor_reason=supervisor.reason,
            supervisor_alive=supervisor.alive,
            started_at=context.started_at,
            you=call.caller.id,
            roles=tuple(sorted(call.caller.rights.roles)),
        )
    )


ROUTES = (Route("GET", "/v1/health", SEEING, show_health, "The manager about itself", response=Health),)
