"""All routes of the manager's API, in the order of the documentation."""

from __future__ import annotations

from keep_manager.route import Route
from keep_manager.routes import backends, document, events, health, keeps, metrics

ROUTES: tuple[Route, ...] = (
    *health.ROUTES,
    *backends.ROUTES,
    *keeps.ROUTES,
    *events.ROUTES,
    *metrics.ROUTES,
    *document.ROUTES,
)
