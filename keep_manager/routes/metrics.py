"""A few figures for Prometheus; text exposition format 0.0.4."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from starlette.responses import Response

from keep_manager.route import WATCHING, Call, Route
from keep_protocol.states import KeepState

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def show_metrics(call: Call) -> Response:
    """Keeps by state, requests by route and status, events, the supervisor, the uptime."""
    context = call.context
    states = Counter(entry.state for entry in context.keeps.all())
    requests = sorted(context.requests.items())
    lines = [
        *_metric("wasmkeep_keeps", "gauge", "Keeps by state.", ((f'{{state="{s}"}}', states[s]) for s in KeepState)),
        *_metric(
            "wasmkeep_requests_total",
            "counter",
            "Answered requests by route and status.",
            ((f'{{route="{route}",status="{status}"}}', count) for (route, status), count in requests),
        ),
        *_metric("wasmkeep_events_total", "counter", "Events ever recorded.", [("", context.events.last)]),
        *_metric(
            "wasmkeep_supervisor_up", "gauge", "Whether the supervisor answers.", [("", int(context.supervisor.alive))]
        ),
        *_metric("wasmkeep_orphan_units", "gauge", "Units without a record.", [("", len(context.keeps.orphans))]),
        *_metric(
            "wasmkeep_uptime_seconds",
            "gauge",
            "Seconds since the manager started.",
            [("", round(time.monotonic() - context.started, 3))],
        ),
    ]
    return Response("\n".join(lines) + "\n", media_type=_MEDIA_TYPE)


def _metric(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{label} {value}" for label, value in samples)]


ROUTES = (Route("GET", "/metrics", WATCHING, show_metrics, "Figures for Prometheus", media_types=("text/plain",)),)
