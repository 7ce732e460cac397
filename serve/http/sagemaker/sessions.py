"""Sessions in SageMaker's protocol: requests that start and end one, and the header that names it.

A JSON body `{"requestType": "NEW_SESSION"}`, with options for all its recordings, starts a session, and
`{"requestType": "CLOSE"}` ends it. Its recordings carry the header `X-Amzn-SageMaker-Session-Id`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from litestar import Response
from sagemaker_inference import content_types

from serve.errors import RequestError
from serve.http.door.json_text import read_object
from serve.http.errors import AnyRequest
from serve.options import TranscriptionOptions, parse_options
from serve.service.place import Place
from serve.service.service import Service
from serve.service.sessions import Session
from serve.transcript.wire import encode_json

SESSION_ID = "X-Amzn-SageMaker-Session-Id"
NEW_SESSION_ID = "X-Amzn-SageMaker-New-Session-Id"
CLOSED_SESSION_ID = "X-Amzn-SageMaker-Closed-Session-Id"

REQUEST_TYPE = "requestType"
NEW_SESSION = "NEW_SESSION"
CLOSE = "CLOSE"

MAX_SESSION_REQUEST_BYTES = 64 * 1024
"""Longer bodies are recordings."""


class SessionAnswer(msgspec.Struct, kw_only=True, frozen=True):
    session_id: str
    expires: str | msgspec.UnsetType = msgspec.UNSET


def session_of(request: AnyRequest, service: Service) -> Session | None:
    """Return the session that a request names; None where it names none.

    Raises:
        UnknownSession: The session is not open.
        RequestError: Sessions are switched off.
    """
    session_id = request.headers.get(SESSION_ID)
    if session_id in (None, NEW_SESSION):  # clients send NEW_SESSION with the request that starts one
        return None
    _check_enabled(service)
    return service.sessions.find(session_id)


async def answer_session_request(
    request: AnyRequest,
    service: Service,
    body: bytes,
    base: TranscriptionOptions,
    place: Place,
    *,
    streams: Callable[[], bool],
) -> Response[bytes] | None:
    """Start or end a session; return None where the body requests neither.

    Args:
        request: Its header names the session to end.
        base: Default options of a new session.
        streams: Tells whether a streamed response is requested, which cannot start a session.

    Raises:
        UnknownSession: The session is not open.
        TooManySessions: The maximum number of sessions is open.
        RequestError: The request is malformed, or sessions are switched off.
    """
    fields = _session_request(request, body)
    if fields is None:
        return None
    _check_enabled(service)
    asked = fields.pop(REQUEST_TYPE)
    if asked == CLOSE:
        session_id = request.headers.get(SESSION_ID)
        if session_id is None:
            raise RequestError(f"the header {SESSION_ID} names the session that is to end")
        service.sessions.close(session_id)
        return _answer(SessionAnswer(session_id=session_id), {CLOSED_SESSION_ID: session_id})
    if streams():
        raise RequestError("a streamed request cannot start a session; send a plain one")
    options = parse_options(fields, strict=True, base=base)
    await service.in_request_thread(partial(place.choose, options))
    return _started(service.sessions.start(options))


def _started(session: Session) -> Response[bytes]:
    expires = datetime.fromtimestamp(session.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = SessionAnswer(session_id=session.id, expires=expires)
    return _answer(answer, {NEW_SESSION_ID: f"{session.id}; Expires={expires}"})


def _session_request(request: AnyRequest, body: bytes) -> dict[str, Any] | None:
    """Return the fields of a body that starts or ends a session; None for any other body.

    Raises:
        RequestError: The header announces a new session, but the body does not start one.
    """
    fields = None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == content_types.JSON and len(body) <= MAX_SESSION_REQUEST_BYTES:
        with suppress(RequestError):  # reported later, where the body is read as a recording
            fields = read_object(body)
    if fields is not None and fields.get(REQUEST_TYPE) in (NEW_SESSION, CLOSE):
        return fields
    if request.headers.get(SESSION_ID) == NEW_SESSION:
        raise RequestError(f'a session is started by a JSON body {{"{REQUEST_TYPE}": "{NEW_SESSION}"}}')
    return None


def _check_enabled(service: Service) -> None:
    if not service.settings.stateful_sessions:
        raise RequestError("sessions are off here; SAGEMAKER_ENABLE_STATEFUL_SESSIONS=true switches them on")


def _answer(answer: SessionAnswer, headers: dict[str, str]) -> Response[bytes]:
    return Response(encode_json(answer) + b"\n", headers={"Content-Type": "application/json", **headers})
