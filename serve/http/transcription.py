"""A request whose body holds a recording -> its answer, whole or streamed. Knows no API's own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

import structlog
from litestar import Response
from litestar.datastructures import State
from litestar.response import Stream
from litestar.types import Receive

from serve.audio.samples import Samples
from serve.errors import RequestError, ServiceError
from serve.http.body import BodyLimits, read_body
from serve.http.errors import UNKNOWN_ERROR_MESSAGE, AnyRequest, ClientGone
from serve.http.metrics import Metrics
from serve.options import TranscriptionOptions
from serve.service.place import Place
from serve.service.service import Service
from serve.service.sessions import Session
from serve.transcript.events import End, Event, Failure
from serve.transcript.formats import Encoder, Format

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Asked(Protocol):
    """What a request asks for before its body is read, and how that body is read: every API has its own."""

    @property
    def session(self) -> Session | None:
        """The session that the request belongs to."""

    async def answer_otherwise(self, service: Service, place: Place, body: bytes) -> Response[bytes] | None:
        """Answer a body that holds no recording for us; None where it does.

        Raises:
            ServiceError: It cannot be answered.
        """

    async def read_recording(self, service: Service, body: bytes) -> Wanted:
        """Take the recording out of the body, and what is asked for.

        Raises:
            ServiceError: The body is malformed, or an option is unknown or wrong.
        """


class Wanted(NamedTuple):
    """A recording, and what is to become of it."""

    audio: bytes | Samples
    options: TranscriptionOptions
    answer_format: Format


Ask = Callable[[AnyRequest, Service], Asked]
"""Reads what a request asks for outside of its body."""


async def transcribe_body(
    request: AnyRequest, state: State, ask: Ask, model: str | None = None
) -> Response[bytes] | Stream:
    """Answer a request whose body holds a recording.

    Args:
        request: Its body is not read yet.
        state: The application's.
        ask: How the route's API words what it asks for.
        model: Name of the model of a multi-model service.
    """
    service: Service = state.service
    asked = ask(request, service)
    # Before the body: whoever will not be served need not send it.
    place = service.admit(model, asked.session)
    try:
        body = await read_body(request.receive, request.headers, _limits(service))
        answer = await asked.answer_otherwise(service, place, body)
        if answer is not None:
            place.close()
            return answer
        audio, options, answer_format = await asked.read_recording(service, body)
        place.choose(options)
        events = service.transcribe(audio, options, place)
        del body, audio  # the decoder alone holds the recording from here on
        encoder, headers = answer_format.new_encoder(), {"Content-Type": answer_format.content_type}
        if not answer_format.streams:
            whole = await unless_client_leaves(request.receive, whole_answer(encoder, events, state.metrics))
            return Response(whole, headers=headers)
        # The first event comes once the recording is accepted: until then errors have a status of their own.
        first = await unless_client_leaves(request.receive, anext(events))
    except BaseException:
        place.close()
        raise
    return Stream(_streamed_answer(encoder, first, events, state.metrics), headers=headers)


async def whole_answer(encoder: Encoder, events: AsyncIterator[Event], metrics: Metrics) -> bytes:
    """Encode an answer that is complete at its end only."""
    pieces = []
    async for event in events:
        _count(event, metrics)
        pieces.append(encoder.encode(event))
    return b"".join(pieces)


async def _streamed_answer(
    encoder: Encoder, first: Event, events: AsyncIterator[Event], metrics: Metrics
) -> AsyncIterator[bytes]:
    """Encode a streamed answer. Its status is out already, so an error becomes its last event."""
    try:
        yield encoder.encode(first)
        async for event in events:
            _count(event, metrics)
            if piece := encoder.encode(event):
                yield piece
    except ServiceError as error:
        metrics.failed(error.code)
        is_callers = isinstance(error, RequestError)
        yield encoder.encode(Failure(code=error.code, message=str(error), is_callers=is_callers))
    except Exception as error:
        _log.error("request.failed", error=type(error).__name__, exc_info=True)
        metrics.failed("internal_error")
        yield encoder.encode(Failure(code="internal_error", message=UNKNOWN_ERROR_MESSAGE))


def _count(event: Event, metrics: Metrics) -> None:
    if isinstance(event, End):
        metrics.transcribed(event.transcript.duration_s, event.processing_s)


async def unless_client_leaves(receive: Receive, work: Awaitable[T]) -> T:
    """Await work, but cancel it when the client leaves: plain handlers are not told. The body must be read.

    Raises:
        ClientGone: The client left first.
    """
    gone = asyncio.ensure_future(_client_gone(receive))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (gone, working):
            task.cancel()
        # Cancelled work frees its place before anyone goes on.
        await asyncio.gather(gone, working, return_exceptions=True)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _limits(service: Service) -> BodyLimits:
    settings = service.settings
    return BodyLimits(
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        idle_timeout_s=settings.body_idle_timeout_s,
    )
