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
from serve.http.body import BodyKind, ParsedBody, body_kind, parse_body
from serve.http.context import CUSTOM_ATTRIBUTES
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
"""Leaves room for four recordings at a time; a job that needs longer ones says so itself."""


@get("/ping", summary="Whether the model answers", sync_to_thread=False)
def ping(state: State) -> Response[bytes]:
    """Answer 200 and nothing else once a window has been decoded; 503 before, and when draining or dead."""
    service: Service = state.service
    service.check_ready()
    return Response(b"")


@get("/execution-parameters", summary="How a batch transform should send records", sync_to_thread=False)
def execution_parameters(state: State) -> dict[str, object]:
    """Answer how many recordings may be sent at a time and how long they may be, one to a request.

    The product of the two is at most 100, as Batch Transform demands; long recordings come first.
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
    """Transcribe the recording in the body; an option or Accept chooses the answer's format."""
    return await transcribe_body(request, state, asked_outside_body)


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What a request asks for before its body is read; see `serve.http.transcription.Asked`."""

    request: AnyRequest
    session: Session | None
    options: TranscriptionOptions
    answer_format: Format | None
    """None where the body may name one."""
    accept: str
    body_kind: BodyKind

    async def answer_otherwise(self, service: Service, place: Place, body: bytes) -> Response[bytes] | None:
        """Answer a session that starts or ends, and what hooks answer."""
        hooks, request = service.hooks, self.request
        answer = answer_session_request(
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
        """Take the recording out of the body, and add what the body asks for.

        Raises:
            ServiceError: The body is malformed, or a hook failed or refused.
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


def asked_outside_body(request: AnyRequest, service: Service) -> Invocation:
    """Read what headers and query ask for, on top of what the request's session does.

    Raises:
        UnknownSession: It names a session that is not open.
        UnsupportedOption: An option is unknown or wrong.
        UnsupportedMediaType: No body of this content type is read.
        NotAcceptable: The answer cannot be written as the client wants it.
    """
    hooks = service.hooks
    session = session_of(request, service)
    answer_format, options = options_outside_body(request, session.prompted_options if session else None)
    any_body = hooks is not None and hooks.takes_any_body
    kind: BodyKind = "raw" if any_body else body_kind(request.headers.get("content-type"))
    accept = request.headers.get("accept") or service.settings.default_accept
    if answer_format is None and kind == "raw" and hooks is None:  # the other kinds of body may name one
        answer_format = negotiate_format(accept)
    return Invocation(
        request=request,
        session=session,
        options=options,
        answer_format=answer_format,
        accept=accept,
        body_kind=kind,
    )


def options_outside_body(
    request: ASGIConnection[Any, Any, Any, State], base: TranscriptionOptions | None = None
) -> tuple[Format | None, TranscriptionOptions]:
    """Read options, and a format where one is named, from headers, the query and the custom attributes.

    The headers name an adapter; the query wins over them, and the custom attributes over the query. What the
    custom attributes hold besides is the caller's own.

    Args:
        request: Of HTTP, or the first one of a WebSocket.
        base: Options that hold where neither says anything.

    Raises:
        UnsupportedOption: One is wrong, or one of the query is unknown.
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
    # Others use the header too, for trace numbers or for what their own containers understand.
    named, rest = take_format({name: values[name] for name in values if name in KNOWN_OPTIONS})
    return named or query_format, parse_options(rest, base=options)
