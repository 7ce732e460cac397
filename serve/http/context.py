"""Wrap every request with a request ID, some response headers and one log line. A plain ASGI application.

It wraps the whole application rather than its routes, so that responses to unknown routes are counted too.
The log line never holds audio, text or the query.
"""

from __future__ import annotations

import re
import time
import uuid
from typing import cast

import structlog
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from serve.engine import tracing
from serve.http.door.log_lines import LogLines
from serve.http.door.unread import UnreadBody
from serve.http.metrics import OTHER_ROUTE, Metrics

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_CUSTOM_ATTRIBUTES_CHARACTERS = 1_024
REQUEST_ID = "X-Request-Id"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
"""No answer is to be taken for a page of another type, or shown within a foreign page."""

QUIET_ROUTES = ("/ping", "/metrics")
"""Routes that machines poll every few seconds, logged at debug level."""

_log = structlog.get_logger(__name__)


class RequestContext:
    def __init__(self, app: Litestar, metrics: Metrics, lines: LogLines) -> None:
        """Wrap `app`; `metrics` counts its responses by route, `lines` limits what is logged of them."""
        self._app = app
        self._metrics = metrics
        self._lines = lines
        self._paths = {route.path for route in app.routes}
        self._first_parts = {_first_part(path) for path in self._paths}
        self._allowed = {
            route.path_format: ", ".join(sorted(route.methods)).encode()
            for route in app.routes
            if isinstance(route, HTTPRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through; add headers and a log line to HTTP responses."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(REQUEST_ID.lower().encode(), b""))
        extra = [(REQUEST_ID.lower().encode(), request_id.encode()), *SECURITY_HEADERS]
        if attributes := _visible_ascii(headers.get(CUSTOM_ATTRIBUTES.lower().encode(), b"")):
            extra.append((CUSTOM_ATTRIBUTES.lower().encode(), attributes))
        route = self._route(scope["path"])
        status, n_bytes, started = 0, 0, time.monotonic()
        body = UnreadBody(scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                allow = self._allow(scope)
                own = [each for each in message["headers"] if not allow or each[0] != b"allow"]
                message["headers"] = [*own, *extra, *allow, *body.headers]
            elif message["type"] == "http.response.body":
                n_bytes += len(message.get("body", b""))
            await body.send(message, send)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            tracing.request(f"{scope['method']} {route}", headers),
        ):
            try:
                await self._app(scope, cast(Receive, body.receive), send_with_headers)
            finally:
                seconds = time.monotonic() - started
                self._metrics.answered(route, status, seconds)
                self._log_request(
                    scope["path"] in QUIET_ROUTES,
                    is_work=scope["method"] == "POST" and status < 400,
                    method=scope["method"],
                    path=scope["path"][:200],
                    status=status,
                    response_bytes=n_bytes,
                    request_s=round(seconds, 3),
                )

    def _log_request(self, is_quiet: bool, *, is_work: bool, **facts: object) -> None:
        if is_quiet:
            _log.debug("request", **facts)
        else:
            self._lines.info(_log, "request", is_work=is_work, **facts)

    def _allow(self, scope: HTTPScope) -> list[tuple[bytes, bytes]]:
        """Return the header that names the methods of a path; litestar names those of one handler alone."""
        allowed = self._allowed.get(scope.get("path_template", ""))
        return [(b"allow", allowed)] if scope["method"] == "OPTIONS" and allowed is not None else []

    def _route(self, path: str) -> str:
        """Return the label of a path among the figures."""
        if path in self._paths:
            return path
        first = _first_part(path)
        return first if first in self._first_parts else OTHER_ROUTE


def _first_part(path: str) -> str:
    """Return `/adapters` for `/adapters/NAME`: the rest is chosen by clients, who could name thousands."""
    return "/" + path.lstrip("/").partition("/")[0]


def _request_id(wanted: bytes) -> str:
    """Return the client's request ID if it is safe to log, to join both logs, else a new one."""
    return wanted.decode() if re.fullmatch(rb"[A-Za-z0-9_.-]{1,64}", wanted) else uuid.uuid4().hex


def _visible_ascii(value: bytes) -> bytes:
    """Return what SageMaker lets through of a header: visible ASCII, 1,024 characters."""
    return re.sub(rb"[^\x20-\x7e]", b"", value)[:MAX_CUSTOM_ATTRIBUTES_CHARACTERS].strip()
