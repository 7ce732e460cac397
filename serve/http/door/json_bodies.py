"""Small JSON bodies, of requests and of answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import msgspec
from litestar import Response

from serve.http.door.body import body_limits, read_body
from serve.http.door.json_text import read_object
from serve.http.errors import AnyRequest
from serve.service.service import Service
from serve.transcript.wire import encode_json

T = TypeVar("T")

MAX_ADMIN_BODY_BYTES = 64 * 1024


async def read_json(request: AnyRequest, service: Service, kind: type[T]) -> T:
    """Read a small JSON body.

    Raises:
        RequestError: The body is not JSON, or does not fit `kind`.
    """
    limits = replace(body_limits(service.settings), max_body_bytes=MAX_ADMIN_BODY_BYTES)
    body = await read_body(request.receive, request.headers, limits, request.app.state.arriving)
    return read_object(body, kind)


def json_response(content: msgspec.Struct) -> Response[bytes]:
    """Answer an object as JSON."""
    return Response(encode_json(content) + b"\n", headers={"Content-Type": "application/json"})
