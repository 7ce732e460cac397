"""POST /v1/audio/transcriptions and /v1/audio/translations: a form in, its transcript out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from litestar import Response, post
from litestar.datastructures import State
from litestar.response import Stream

from serve.engine import Task
from serve.errors import RequestError, UnsupportedMediaType
from serve.http.door.body import FORM, LIST_MARK, ParsedBody, parse_body
from serve.http.errors import AnyRequest
from serve.http.openai.fields import MODEL, read_fields
from serve.http.openai.models import SERVED, adapter_of
from serve.http.transcription import Wanted, transcribe_body
from serve.options import TranscriptionOptions
from serve.service.place import Place
from serve.service.service import Service

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"

MAX_QUERY_FIELDS = 64


@post(TRANSCRIPTIONS, summary="Transcribe a recording", status_code=200, request_max_body_size=None)
async def transcriptions(request: AnyRequest, state: State) -> Response[bytes] | Stream:
    """Transcribe the recording of a form in its own language."""
    return await transcribe_body(request, state, partial(_asked, task="transcribe"))


@post(TRANSLATIONS, summary="Translate a recording", status_code=200, request_max_body_size=None)
async def translations(request: AnyRequest, state: State) -> Response[bytes] | Stream:
    """Translate the speech of a recording to English text."""
    return await transcribe_body(request, state, partial(_asked, task="translate"))


@dataclass(kw_only=True)
class AudioForm:
    """A request of OpenAI's audio API, before its body is read."""

    request: AnyRequest
    query: Mapping[str, Any]
    task: Task
    session: None = None
    model: None = None
    _parsed: ParsedBody | None = None

    async def model_in(self, service: Service, body: bytes) -> str | None:
        """Return the name of the model where there are several.

        Raises:
            RequestError: The form is malformed.
        """
        if service.models is None:
            return None
        self._parsed = await self._parse(service, body)
        return str({**self.query, **self._parsed.options}.get(MODEL, "")).strip() or SERVED

    async def answer_otherwise(self, service: Service, place: Place, body: bytes) -> Response[bytes] | None:
        """Return None: every body holds a recording."""
        return None

    async def read_recording(self, service: Service, body: bytes) -> Wanted:
        """Return the recording of the form, and the options and format that its fields ask for.

        Raises:
            RequestError: The form is malformed.
            UnsupportedOption: A field is unknown or invalid.
            UnknownModel: The named model does not exist.
        """
        parsed = self._parsed or await self._parse(service, body)
        fields = {**self.query, **parsed.options}
        base = TranscriptionOptions(task=self.task, adapter=adapter_of(service, fields.pop(MODEL, "")))
        options, answer_format = read_fields(fields, base)
        return Wanted(parsed.audio, options, answer_format)

    async def _parse(self, service: Service, body: bytes) -> ParsedBody:
        return await service.in_worker(parse_body, body, "form", self.request.headers.get("content-type"))


def _asked(request: AnyRequest, service: Service, task: Task) -> AudioForm:
    """Read the query, whose fields are treated like those of the form.

    Raises:
        UnsupportedMediaType: The body is not a form.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM:
        raise UnsupportedMediaType("the recording comes as the field 'file' of multipart/form-data here")
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode(), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError as error:
        raise RequestError("the query cannot be read") from error
    query: dict[str, Any] = {}
    for name, value in pairs:
        query[name] = [*query.get(name, []), value] if name.endswith(LIST_MARK) else value
    return AudioForm(request=request, query=query, task=task)
