"""Answer requests by a user's hooks, in a thread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Response

from serve.http.door.body import body_kind, parse_body
from serve.http.errors import AnyRequest
from serve.options import TranscriptionOptions, parse_options
from serve.service.hooks import Hooks
from serve.service.place import Place
from serve.service.service import Service
from serve.transcript.events import End, Event
from serve.transcript.wire import verbose_body

if TYPE_CHECKING:
    from serve.audio.samples import Samples

MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;[\x20-\x7e]*)?")
FALLBACK_CONTENT_TYPE = "application/octet-stream"


def headers_of(request: AnyRequest) -> dict[str, str]:
    """Return a request's headers by lower-case name."""
    return {name.lower(): value for name, value in request.headers.items()}


async def answer_with_hooks(
    hooks: Hooks,
    service: Service,
    place: Place,
    request: AnyRequest,
    body: bytes,
    accept: str,
    options: TranscriptionOptions,
) -> Response[bytes]:
    """Answer a request by hooks.

    Raises:
        ServiceError: A hook failed or refused the request.
    """
    content_type = request.headers.get("content-type") or FALLBACK_CONTENT_TYPE

    def transcribe(audio: bytes | Samples, named: Mapping[str, Any]) -> dict[str, Any]:
        wanted = parse_options(named, base=options)
        place.choose(wanted)
        events: list[Event] = []
        place.transcribe(place.opening(audio, wanted), wanted, events.append)
        assert isinstance(events[-1], End), "a pipeline ends with its transcript"
        answer: dict[str, Any] = msgspec.to_builtins(verbose_body(events[-1].transcript))
        return answer

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
