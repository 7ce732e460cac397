"""The routes of the OpenAPI document and its page, at the path that the settings name."""

from __future__ import annotations

import json
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from serve.http.openapi.document import describe
from serve.http.openapi.page import SECURITY, reference_page

DOCUMENT = "openapi.json"


def description_routes(place: str) -> list[ControllerRouterHandler]:
    """Return the routes of the page and of the document below it; none if `place` is empty."""
    if not place:
        return []
    document_path = f"{place.rstrip('/')}/{DOCUMENT}"

    @get(document_path, summary="The description", include_in_schema=False, sync_to_thread=False)
    def document(request: Request[Any, Any, State], state: State) -> Response[bytes]:
        """Return the OpenAPI document."""
        described = describe(request.app.routes, state.service)
        body = json.dumps(described, ensure_ascii=False, indent=1).encode()
        return Response(body, headers={"Content-Type": "application/json"})

    @get(place, summary="The description as a page", include_in_schema=False, sync_to_thread=False)
    def page(request: Request[Any, Any, State], state: State) -> Response[bytes]:
        """Return the document as a page."""
        described = describe(request.app.routes, state.service)
        return Response(
            reference_page(described, document_path).encode(),
            headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": SECURITY},
        )

    return [document, page]
