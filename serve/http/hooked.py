"""Requests that a user's hooks answer, in a thread from the body to the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response

from serve.http.body import ParsedBody, body_kind, parse_body
from serve.http.errors import AnyRequest
from serve.http.sessions import remember
from serve.options import TranscriptionOptions, parse_options
from serve.service.hooks import Hooks
from serve.service.service import Place, Service
from serve.transcript.events import End
from serve.transcript.wire import verbose_body

if TYPE_CHECKING:
    from serve.audio.samples import Samples
    from serve.service.sessions import Session

MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;[\x20-\x7e]*)?")
FALLBACK_CONTENT_TYPE = "application/octet-stream"


def headers_of(request: AnyRequest) -> dict[str, str]:
    """Return the headers of a request, their names in small letters."""
    return {name.lower(): value for name, value in request.headers.items()}


def read_with_hooks(hooks: Hooks, body: bytes, content_type: str, headers: Mapping[str, str]) -> ParsedBody:
    """Let `input_fn` read a body that is then transcribed as any other; in the running thread.

    Raises:
        ServiceError: It failed, refused, or gave no recording.
    """
    audio, options = hooks.read_recording(body, content_type, headers)
    return ParsedBody(audio=audio, options=options, typed=True)


async def answer_with_hooks(
    hooks: Hooks,
    service: Service,
    place: Place,
    request: AnyRequest,
    body: bytes,
    accept: str,
    options: TranscriptionOptions,
    session: Session | None,
) -> Response[bytes]:
    """Let hooks answer a request.

    Raises:
        ServiceError: They failed or refused.
    """
    content_type = request.headers.get("content-type") or FALLBACK_CONTENT_TYPE

    def transcribe(audio: bytes | Samples, named: Mapping[str, Any]) -> dict[str, Any]:
        wanted = parse_options(named, base=options)
        place.choose(wanted)
        for event in service.events_of(audio, wanted, place):
            if isinstance(event, End):
                remember(session, event)
                answer: dict[str, Any] = msgspec.to_builtins(verbose_body(event.transcript))
                return answer
        raise AssertionError("a pipeline ends with its transcript")

    def read() -> dict[str, Any]:
        parsed = parse_body(body, body_kind(content_type), content_type)
        return {"audio": parsed.audio, **parsed.options}

    def work() -> tuple[bytes, str]:
        return hooks.answer(
            body, content_type, accept, headers=headers_of(request), transcribe=transcribe, read=read
        )

    answer, answer_type = await service.in_request_thread(work)
    if not isinstance(answer_type, str) or not MEDIA_TYPE.fullmatch(answer_type):
        answer_type = FALLBACK_CONTENT_TYPE  # such as an Accept header with several ranges
    return Response(answer, headers={"Content-Type": answer_type})
