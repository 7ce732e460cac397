"""Request bodies, parameters, responses and errors of each route."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serve import errors
from serve.http.context import CUSTOM_ATTRIBUTES, REQUEST_ID
from serve.http.door.body import AUDIO_FIELD
from serve.http.errors import BodyTimeout
from serve.http.openai.audio import TRANSCRIPTIONS, TRANSLATIONS
from serve.http.openai.models import ModelBody, ModelsBody
from serve.http.sagemaker.adapters import ADAPTER_ALIAS, ADAPTER_ID, AllAdapters, NewAdapter, RemovedAdapter
from serve.http.sagemaker.models import LoadedModel, ModelPage, NewModel
from serve.http.sagemaker.sessions import SESSION_ID
from serve.service.registered import Adapter
from serve.transcript.formats import FORMATS
from serve.transcript.openai import TextBody
from serve.transcript.wire import TranscriptBody, VerboseBody

Schema = Mapping[str, Any]
Error = type[errors.ServiceError]

TEXT: Schema = {"type": "string"}
BYTES: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
BASE64: Schema = {"type": "string", "format": "byte", "contentEncoding": "base64"}

JSON = "application/json"

HUNDREDTH_OF_SILENCE = base64.b64encode(
    b"RIFF\x74\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\x50\0\0\0"
    + 80 * b"\x80"
).decode()
"""A WAV file of 80 samples at 8 kHz."""

SHORT_RECORDING = {AUDIO_FIELD: HUNDREDTH_OF_SILENCE, "format": "verbose_json"}
NOTHING: Mapping[str, Schema | type[msgspec.Struct]] = {}

CHANGING: Sequence[Error] = (errors.ForeignOrigin, errors.UnsupportedMediaType)
READING: Sequence[Error] = (
    *(errors.RequestError, errors.PayloadTooLarge, errors.UnsupportedMediaType, errors.ForeignOrigin),
    *(BodyTimeout, errors.Overloaded, errors.NotReady),
)
"""Errors of routes that read a small JSON body."""

TRANSCRIBING: Sequence[Error] = (
    *(errors.RequestError, errors.UnsupportedOption, errors.UnsupportedMediaType, errors.PayloadTooLarge),
    *(BodyTimeout, errors.AudioError, errors.UndecodableAudio, errors.EmptyAudio, errors.AudioTooLong),
    *(errors.Overloaded, errors.NotReady, errors.NoMemory, errors.RequestTimeout, errors.EngineError),
)
"""Errors of routes that transcribe a recording."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """Request and responses of a route."""

    answers: Mapping[str, Schema | type[msgspec.Struct]]
    """Media type -> schema of a response with status 200."""
    errors: Sequence[Error] = ()
    bodies: Mapping[str, Schema | type[msgspec.Struct]] = field(default_factory=dict)
    """Media type -> schema of the request body; empty if none is read."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request header -> its meaning."""
    takes_options: bool = False
    """Whether the query takes the options of a transcription."""
    query: Mapping[str, Schema] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Media type -> valid request body."""


def one_of(*schemas: type[msgspec.Struct]) -> Schema:
    """Return the schema of one of several wire types."""
    return {"oneOf": [{"$ref": f"#/components/schemas/{each.__name__}"} for each in schemas]}


TRANSCRIPTS: Mapping[str, Schema | type[msgspec.Struct]] = {
    each.media_type: one_of(TranscriptBody, VerboseBody) if each.media_type == JSON else TEXT
    for each in FORMATS
}
OPENAI_ANSWERS: Mapping[str, Schema | type[msgspec.Struct]] = {
    JSON: one_of(TextBody, VerboseBody),
    **dict.fromkeys(("text/plain", "application/x-subrip", "text/vtt", "text/event-stream"), TEXT),
}
RECORDINGS: Mapping[str, Schema | type[msgspec.Struct]] = {
    **dict.fromkeys(
        ("application/octet-stream", "audio/wav", "audio/flac", "audio/mpeg", "audio/ogg"), BYTES
    ),
    "multipart/form-data": {"$ref": "#/components/schemas/RecordingForm"},
    JSON: {"$ref": "#/components/schemas/RecordingObject"},
}
SAGEMAKER_HEADERS = {
    CUSTOM_ATTRIBUTES: "options as name=value;name=value, which override the query; echoed in the response",
    ADAPTER_ID: "name of the adapter, where no option `adapter` is sent",
    ADAPTER_ALIAS: "alias of the adapter, where neither is sent",
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/"): Operation(answers={JSON: {"type": "object"}, "text/html": TEXT}),
    ("GET", "/ping"): Operation(answers=NOTHING, errors=(errors.NotReady,)),
    ("GET", "/execution-parameters"): Operation(
        answers={
            JSON: {
                "type": "object",
                "required": ["MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"],
                "properties": {
                    "MaxConcurrentTransforms": {"type": "integer"},
                    "BatchStrategy": {"const": "SINGLE_RECORD"},
                    "MaxPayloadInMB": {"type": "integer"},
                },
            }
        }
    ),
    ("GET", "/metrics"): Operation(answers={"text/plain": TEXT}),
    ("POST", "/invocations"): Operation(
        answers=TRANSCRIPTS,
        bodies=RECORDINGS,
        errors=(*TRANSCRIBING, errors.NotAcceptable, errors.UnknownSession, errors.TooManySessions),
        headers={**SAGEMAKER_HEADERS, SESSION_ID: "the session that the recording belongs to"},
        takes_options=True,
        examples={JSON: SHORT_RECORDING},
    ),
    ("POST", TRANSCRIPTIONS): Operation(
        answers=OPENAI_ANSWERS,
        bodies={"multipart/form-data": {"$ref": "#/components/schemas/OpenAIForm"}},
        errors=(*TRANSCRIBING, errors.UnknownModel),
    ),
    ("POST", TRANSLATIONS): Operation(
        answers=OPENAI_ANSWERS,
        bodies={"multipart/form-data": {"$ref": "#/components/schemas/OpenAIForm"}},
        errors=(*TRANSCRIBING, errors.UnknownModel),
    ),
    ("GET", "/v1/models"): Operation(answers={JSON: ModelsBody}, errors=(errors.NotReady,)),
    ("GET", "/v1/models/{model}"): Operation(
        answers={JSON: ModelBody}, errors=(errors.NotReady, errors.UnknownModel)
    ),
    ("POST", "/adapters"): Operation(
        answers={JSON: Adapter},
        bodies={JSON: NewAdapter},
        errors=(
            *(*READING, errors.AdapterExists, errors.UnknownPath, errors.BadAdapter),
            *(errors.NotRemovable, errors.NoMemory, errors.TooManyAdapters),
        ),
        headers={ADAPTER_ALIAS: "a further name of the adapter"},
        examples={JSON: {"name": "hindi", "src": "/opt/ml/adapters/hindi", "language": "hi"}},
    ),
    ("GET", "/adapters"): Operation(answers={JSON: AllAdapters}, errors=(errors.NotReady,)),
    ("GET", "/adapters/{name}"): Operation(
        answers={JSON: Adapter}, errors=(errors.NotReady, errors.UnknownAdapter)
    ),
    ("DELETE", "/adapters/{name}"): Operation(
        answers={JSON: RemovedAdapter},
        errors=(errors.NotReady, errors.UnknownAdapter, errors.NotRemovable, *CHANGING),
    ),
    ("POST", "/models"): Operation(
        answers={JSON: LoadedModel},
        bodies={JSON: NewModel},
        errors=(
            *(*READING, errors.ModelExists, errors.UnknownPath, errors.BadAdapter),
            errors.NoMemory,
        ),
        examples={JSON: {"model_name": "marathi", "url": "/opt/ml/models/marathi"}},
    ),
    ("GET", "/models"): Operation(
        answers={JSON: ModelPage}, errors=(errors.NotReady,), query={"next_page_token": TEXT}
    ),
    ("GET", "/models/{name}"): Operation(
        answers={JSON: LoadedModel}, errors=(errors.NotReady, errors.UnknownModel)
    ),
    ("DELETE", "/models/{name}"): Operation(
        answers={JSON: LoadedModel}, errors=(errors.NotReady, errors.UnknownModel, *CHANGING)
    ),
    ("POST", "/models/{name}/invoke"): Operation(
        answers=TRANSCRIPTS,
        bodies=RECORDINGS,
        errors=(*TRANSCRIBING, errors.NotAcceptable, errors.UnknownModel),
        headers={CUSTOM_ATTRIBUTES: SAGEMAKER_HEADERS[CUSTOM_ATTRIBUTES]},
        takes_options=True,
        examples={JSON: SHORT_RECORDING},
    ),
}
"""Method and path -> operation."""

ANSWER_HEADERS = {
    REQUEST_ID: "number of the request in the service's log; the client's own, where it sent one"
}
