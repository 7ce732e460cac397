"""The routes of a SageMaker container: GET /ping and POST /invocations, and what may be asked there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from litestar import Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.response import Stream
from sagemaker_inference import content_types

from serve.errors import RequestError
from serve.http.accept import negotiate_format
from serve.http.context import CUSTOM_ATTRIBUTES
from serve.http.door.body import BodyKind, ParsedBody, body_kind, parse_body
from serve.http.errors import AnyRequest
from serve.http.sagemaker.adapters import named_adapter
from serve.http.sagemaker.hooked import answer_with_hooks, headers_of
from serve.http.sagemaker.sessions import answer_session_request, session_of
from serve.http.transcription import Wanted, transcribe_body, unless_client_leaves
from serve.options import KNOWN_OPTIONS, TranscriptionOptions, parse_options
from serve.service.place import Place
from serve.service.service import Service
from serve.service.sessions import Session
from serve.transcript.formats import Format, take_format

MAX_TRANSFORM_PRODUCT = 100
"""Concurrent transforms times megabytes of payload (CreateTransformJob)."""

MAX_TRANSFORM_PAYLOAD_MIB = 25
"""Leaves room for four recordings at a time; a job with longer ones must set its own limit."""


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
    return await transcribe_body(request, state, asked_outside_body)


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What a request's headers and query ask for, known before its body is read."""

    request: AnyRequest
    session: Session | None
    options: TranscriptionOptions
    answer_format: Format | None
    """None where the body may name one."""
    accept: str
    body_kind: BodyKind
    model: str | None
    """Name of the model in a multi-model service."""

    async def model_in(self, service: Service, body: bytes) -> str | None:
        """Return the model's name, which the route says."""
        return self.model

    async def answer_otherwise(self, service: Service, place: Place, body: bytes) -> Response[bytes] | None:
        """Answer what the pipeline need not: a session that starts or ends, and what hooks answer."""
        hooks, request = service.hooks, self.request
        answer = await answer_session_request(
            request,
            service,
            body,
            self.options,
            place,
            streams=lambda: (self.answer_format or negotiate_format(self.accept)).streams,
        )
        if answer is None and hooks is not None and hooks.writes_answer:
            answering = answer_with_hooks(hooks, service, place, request, body, self.accept, self.options)
            return await unless_client_leaves(request.receive, answering)
        return answer

    async def read_recording(self, service: Service, body: bytes) -> Wanted:
        """Return the recording, the options and the format of a request, those in its body included.

        Raises:
            ServiceError: The body is malformed, or a hook failed or refused it.
        """
        hooks, content_type = service.hooks, self.request.headers.get("content-type")
        if hooks is not None and hooks.reads_body:
            media_type = content_type or content_types.OCTET_STREAM
            reading = partial(hooks.read_recording, body, media_type, headers_of(self.request))
            audio, options = await service.in_request_thread(reading)
            parsed = ParsedBody(audio=audio, options=options, typed=True)
        else:
            parsed = await service.in_worker(parse_body, body, self.body_kind, content_type)
        named, rest = take_format(parsed.options)
        answer_format = named or self.answer_format or negotiate_format(self.accept)
        return Wanted(
            parsed.audio, parse_options(rest, strict=parsed.typed, base=self.options), answer_format
        )


def asked_outside_body(request: AnyRequest, service: Service, model: str | None = None) -> Invocation:
    """Read options from headers and query, with the session's options as defaults.

    Args:
        model: Name of the model in a multi-model service.

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
    return Invocation(
        request=request,
        session=session,
        options=options,
        answer_format=answer_format,
        accept=accept,
        body_kind=kind,
        model=model,
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
