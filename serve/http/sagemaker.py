"""The routes of a SageMaker container: GET /ping and POST /invocations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import structlog
from litestar import Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.response import Stream
from litestar.types import Receive
from sagemaker_inference import content_types

from serve.audio.samples import Samples
from serve.errors import RequestError, ServiceError
from serve.http.accept import negotiate_format
from serve.http.adapters import named_adapter
from serve.http.body import BodyKind, BodyLimits, ParsedBody, body_kind, parse_body, read_body
from serve.http.context import CUSTOM_ATTRIBUTES
from serve.http.errors import UNKNOWN_ERROR_MESSAGE, AnyRequest, ClientGone
from serve.http.hooked import answer_with_hooks, headers_of
from serve.http.metrics import Metrics
from serve.http.sessions import answer_session_request, session_of
from serve.options import KNOWN_OPTIONS, TranscriptionOptions, parse_options
from serve.service.place import Place
from serve.service.service import Service
from serve.service.sessions import Session
from serve.transcript.events import End, Event, Failure
from serve.transcript.formats import Encoder, Format, take_format

T = TypeVar("T")

MAX_TRANSFORM_PRODUCT = 100
"""Concurrent transforms times megabytes of payload (CreateTransformJob)."""

MAX_TRANSFORM_PAYLOAD_MIB = 25
"""Leaves room for four recordings at a time; a job with longer ones must set its own limit."""

_log = structlog.get_logger(__name__)


@get("/ping", summary="Whether the model answers", sync_to_thread=False)
def ping(state: State) -> Response[bytes]:
    """Return 200 once a window has been decoded; 503 before, while draining, and when dead."""
    service: Service = state.service
    service.check_ready()
    return Response(b"")


@get("/execution-parameters", summary="How a batch transform should send records", sync_to_thread=False)
def execution_parameters(state: State) -> dict[str, object]:
    """Return how many recordings Batch Transform may send at a time, and their largest size.

    Batch Transform limits the product of the two to 100; large recordings take precedence.
    """
    settings = state.service.settings
    payload_mib = max(1, min(settings.max_body_bytes >> 20, MAX_TRANSFORM_PAYLOAD_MIB))
    concurrent = max(1, min(settings.max_requests, MAX_TRANSFORM_PRODUCT // payload_mib))
    return {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload_mib,
    }


@post("/invocations", summary="Transcribe a recording", status_code=200, request_max_body_size=None)
async def invocations(request: AnyRequest, state: State) -> Response[bytes] | Stream:
    """Transcribe the recording in the body; an option or `Accept` chooses the response format."""
    return await transcribe_body(request, state)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request's headers and query ask for, known before its body is read."""

    session: Session | None
    options: TranscriptionOptions
    answer_format: Format | None
    """None where the body may name one."""
    accept: str
    body_kind: BodyKind


async def transcribe_body(
    request: AnyRequest, state: State, model: str | None = None
) -> Response[bytes] | Stream:
    """Answer a request whose body holds a recording.

    Args:
        model: Name of the model in a multi-model service.
    """
    service: Service = state.service
    asked = asked_outside_body(request, service)
    # Before the body, so that a refused client need not send it.
    place = service.admit(model, asked.session)
    try:
        body = await read_body(request.receive, request.headers, _limits(service))
        answer = await _answer_without_us(request, service, place, body, asked)
        if answer is not None:
            place.close()
            return answer
        audio, options, answer_format = await read_recording(request, service, body, asked)
        place.choose(options)
        events = service.transcribe(audio, options, place)
        del body, audio  # from here on only the decoder keeps the recording
        encoder, headers = answer_format.new_encoder(), {"Content-Type": answer_format.content_type}
        if not answer_format.streams:
            whole = await _unless_client_leaves(request.receive, whole_answer(encoder, events, state.metrics))
            return Response(whole, headers=headers)
        # The first event comes once the recording is accepted; errors before it have their own status.
        first = await _unless_client_leaves(request.receive, anext(events))
    except BaseException:
        place.close()
        raise
    return Stream(_streamed_answer(encoder, first, events, state.metrics), headers=headers)


def asked_outside_body(request: AnyRequest, service: Service) -> Asked:
    """Read options from headers and query, with the session's options as defaults.

    Raises:
        UnknownSession: The named session is not open.
        UnsupportedOption: An option is unknown or invalid.
        UnsupportedMediaType: The content type is not supported.
        NotAcceptable: The response format is not supported.
    """
    hooks = service.hooks
    session = session_of(request, service)
    answer_format, options = options_outside_body(request, session.prompted_options if session else None)
    any_body = hooks is not None and hooks.takes_any_body
    kind: BodyKind = "raw" if any_body else body_kind(request.headers.get("content-type"))
    accept = request.headers.get("accept") or service.settings.default_accept
    if answer_format is None and kind == "raw" and hooks is None:  # other kinds of body may name a format
        answer_format = negotiate_format(accept)
    return Asked(session=session, options=options, answer_format=answer_format, accept=accept, body_kind=kind)


async def _answer_without_us(
    request: AnyRequest, service: Service, place: Place, body: bytes, asked: Asked
) -> Response[bytes] | None:
    """Answer what the pipeline need not: a session that starts or ends, and requests that hooks answer."""
    hooks = service.hooks
    answer = answer_session_request(
        request,
        service,
        body,
        asked.options,
        place,
        streams=lambda: (asked.answer_format or negotiate_format(asked.accept)).streams,
    )
    if answer is None and hooks is not None and hooks.writes_answer:
        answering = answer_with_hooks(hooks, service, place, request, body, asked.accept, asked.options)
        return await _unless_client_leaves(request.receive, answering)
    return answer


async def read_recording(
    request: AnyRequest, service: Service, body: bytes, asked: Asked
) -> tuple[bytes | Samples, TranscriptionOptions, Format]:
    """Return the recording, the options and the format of a request, those in its body included.

    Raises:
        ServiceError: The body is malformed, or a hook failed or refused it.
    """
    hooks, content_type = service.hooks, request.headers.get("content-type")
    if hooks is not None and hooks.reads_body:
        media_type = content_type or content_types.OCTET_STREAM
        reading = partial(hooks.read_recording, body, media_type, headers_of(request))
        audio, options = await service.in_request_thread(reading)
        parsed = ParsedBody(audio=audio, options=options, typed=True)
    else:
        parsed = await service.in_worker(parse_body, body, asked.body_kind, content_type)
    named, rest = take_format(parsed.options)
    answer_format = named or asked.answer_format or negotiate_format(asked.accept)
    return parsed.audio, parse_options(rest, strict=parsed.typed, base=asked.options), answer_format


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
        yield encoder.encode(Failure(code=error.code, message=str(error)))
    except Exception as error:
        _log.error("request.failed", error=type(error).__name__, exc_info=True)
        metrics.failed("internal_error")
        yield encoder.encode(Failure(code="internal_error", message=UNKNOWN_ERROR_MESSAGE))


def _count(event: Event, metrics: Metrics) -> None:
    if isinstance(event, End):
        metrics.transcribed(event.transcript.duration_s, event.processing_s)


async def _unless_client_leaves(receive: Receive, work: Awaitable[T]) -> T:
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


def _limits(service: Service) -> BodyLimits:
    settings = service.settings
    return BodyLimits(
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        idle_timeout_s=settings.body_idle_timeout_s,
    )


def options_outside_body(
    request: ASGIConnection[Any, Any, Any, State], base: TranscriptionOptions | None = None
) -> tuple[Format | None, TranscriptionOptions]:
    """Read options, and the format if named, from headers, query and custom attributes.

    The custom attributes override the query, which overrides the adapter headers. Custom attributes that are
    no options are ignored.

    Args:
        request: An HTTP request, or the handshake of a WebSocket.
        base: Default options.

    Raises:
        UnsupportedOption: An option is invalid, or one of the query is unknown.
    """
    try:
        query = parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise RequestError("the query cannot be read") from error
    query_format, rest = take_format(dict(query))
    if (adapter := named_adapter(request)) is not None:
        base = replace(base or TranscriptionOptions(), adapter=adapter)
    options = parse_options(rest, base=base)
    attributes = request.headers.get(CUSTOM_ATTRIBUTES, "")
    pairs = (part.partition("=") for part in attributes.split(";") if "=" in part)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    # Clients also use this header for trace IDs, or for options of other containers.
    named, rest = take_format({name: values[name] for name in values if name in KNOWN_OPTIONS})
    return named or query_format, parse_options(rest, base=options)
