"""A request with a recording -> its response, whole or streamed. Independent of the API's terms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import structlog
from litestar import Response
from litestar.datastructures import State
from litestar.response import Stream
from litestar.types import Receive

from serve.audio.samples import Samples
from serve.errors import RequestError, ServiceError
from serve.http.door.body import SMALL_BYTES, body_limits, read_body
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
    """A request before its body is read, in the terms of one API."""

    @property
    def session(self) -> Session | None:
        """Session of the request, if any."""

    @property
    def model(self) -> str | None:
        """Name of the model in a multi-model service; None where only the body says it."""

    async def model_in(self, service: Service, body: bytes) -> str | None:
        """Return the name of the model in a multi-model service, which the body may say.

        Raises:
            RequestError: The body is malformed.
        """

    async def answer_otherwise(self, service: Service, place: Place, body: bytes) -> Response[bytes] | None:
        """Return the response to a body without a recording; None if it holds one."""

    async def read_recording(self, service: Service, body: bytes) -> Wanted:
        """Return the recording, the options and the format.

        Raises:
            ServiceError: The body is malformed, or an option is unknown or invalid.
        """


class Wanted(NamedTuple):
    """A recording, how to transcribe it, and how to respond."""

    audio: bytes | Samples
    options: TranscriptionOptions
    answer_format: Format


Ask = Callable[[AnyRequest, Service], Asked]
"""Reads a request's headers and query."""


async def transcribe_body(request: AnyRequest, state: State, ask: Ask) -> Response[bytes] | Stream:
    """Answer a request whose body holds a recording; `ask` reads the rest in the terms of the route's API."""
    service: Service = state.service
    asked = ask(request, service)
    if asked.model is None and service.models is not None:  # one of many engines, which the body names
        service.check_ready()
    else:
        service.admit(asked.model).close()  # so that a refused client need not send its body
    limits, arriving = body_limits(service.settings), state.arriving
    service.n_arriving += 1
    try:
        body = await read_body(request.receive, request.headers, limits, arriving)
    finally:
        service.n_arriving -= 1
    # A place is for work: a body that is still arriving has none.
    model = await asked.model_in(service, body)
    place = service.admit(model, asked.session, is_long=len(body) > SMALL_BYTES, has_arrived=True)
    try:
        answer = await asked.answer_otherwise(service, place, body)
        if answer is not None:
            place.close()
            return answer
        audio, options, answer_format = await asked.read_recording(service, body)
        # The engine's process may be asked what it supports, and it may be slow to answer.
        await service.in_request_thread(partial(place.choose, options))
        events = service.transcribe(audio, options, place)
        del body, audio  # from here on only the decoder keeps the recording
        encoder, headers = answer_format.new_encoder(), {"Content-Type": answer_format.content_type}
        if not answer_format.streams:
            whole = await unless_client_leaves(request.receive, whole_answer(encoder, events, state.metrics))
            return Response(whole, headers=headers)
        # The first event comes once the recording is accepted; errors before it have their own status.
        first = await unless_client_leaves(request.receive, anext(events))
    except BaseException:
        place.close()
        raise
    return Stream(_streamed_answer(encoder, first, events, state.metrics), headers=headers)


async def whole_answer(encoder: Encoder, events: AsyncIterator[Event], metrics: Metrics) -> bytes:
    """Encode a response that is sent as a whole."""
    pieces = []
    async for event in events:
        _count(event, metrics)
        pieces.append(encoder.encode(event))
    return b"".join(pieces)


async def _streamed_answer(
    encoder: Encoder, first: Event, events: AsyncIterator[Event], metrics: Metrics
) -> AsyncIterator[bytes]:
    """Encode a streamed response. Its status is already sent, so an error becomes its last event."""
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
    """Await work, but cancel it if the client leaves, which litestar does not report. The body must be read.

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
        # Wait until cancelled work has freed its place.
        await asyncio.gather(gone, working, return_exceptions=True)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
