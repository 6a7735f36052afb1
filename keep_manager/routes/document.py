"""The API's own description."""

from __future__ import annotations

from starlette.responses import Response

from keep_manager.route import SEEING, Call, Route, json_response


async def show_document(call: Call) -> Response:
    """The OpenAPI document of the routes that serve it."""
    from keep_manager.openapi import document_bytes  # it is made of all routes, of which this is one

    return json_response(document_bytes())


ROUTES = (Route("GET", "/v1/openapi.json", SEEING, show_document, "This document"),)
