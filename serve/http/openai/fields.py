"""The fields of OpenAI's audio forms -> options of a transcription, and the response format.

Every field is honoured, or refused by name. Options that OpenAI does not have, such as `beam_size`, keep
their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from serve.errors import RequestError, UnsupportedOption
from serve.http.door.body import LIST_MARK
from serve.http.door.json_text import read_object
from serve.options import TranscriptionOptions, option_refusal, parse_options
from serve.transcript.formats import Format
from serve.transcript.openai import FormatName, openai_format, openai_stream

MODEL = "model"
CHUNKING = "chunking_strategy"
STREAMED_FORMATS = ("json", "text")
"""Values of `response_format` that a stream accepts; its events hold plain text."""

_NO_SPEAKERS = "speakers are not told apart here"

REFUSED: Mapping[str, str] = {
    "known_speaker_names": _NO_SPEAKERS,
    "known_speaker_references": _NO_SPEAKERS,
    "adapter": f"an adapter is named by '{MODEL}' here",
    "task": "the route says it: /v1/audio/transcriptions or /v1/audio/translations",
    "word_timestamps": "words are timed by 'timestamp_granularities[]' here",
    "format": "the answer's format is named by 'response_format' here",
}
"""Field -> the reason why it is refused."""


LISTS = ("timestamp_granularities", "include", "keywords", "languages")
"""Fields that may be repeated."""


class OwnFields(msgspec.Struct, kw_only=True):
    """Fields that only OpenAI's API has."""

    response_format: FormatName = "json"
    stream: bool = False
    timestamp_granularities: list[Literal["word", "segment"]] = []
    include: list[Literal["logprobs"]] = []
    keywords: list[str] = []
    languages: list[str] = []


def read_fields(fields: Mapping[str, Any], base: TranscriptionOptions) -> tuple[TranscriptionOptions, Format]:
    """Read the fields of a form, except the recording and the model.

    Args:
        fields: Name -> text, or a list of texts where the name ends in `[]`.
        base: Options that the route and the model imply.

    Raises:
        UnsupportedOption: A field is unknown, invalid, or cannot be honoured.
    """
    named = {name.removesuffix(LIST_MARK): value for name, value in fields.items()}
    for name, reason in REFUSED.items():
        if named.get(name):
            raise UnsupportedOption(name, reason)
    _check_chunking({name: named.pop(name) for name in list(named) if name.partition("[")[0] == CHUNKING})
    own = _own_fields({name: named.pop(name) for name in OwnFields.__struct_fields__ if name in named})
    options = parse_options({name: value for name, value in named.items() if name not in REFUSED}, base=base)
    if own.keywords:
        hotwords = ", ".join(filter(None, [options.hotwords, *own.keywords]))
        options = parse_options({"hotwords": hotwords}, base=options)
    words, logprobs = "word" in own.timestamp_granularities, "logprobs" in own.include
    if own.languages:
        if options.language is not None:
            raise UnsupportedOption("languages", "contradicts option 'language'")
        options = parse_options({"language": own.languages[0]}, base=options)
    # The alignment that times words also scores tokens.
    options = replace(options, word_timestamps=words or logprobs)
    if own.stream:
        return options, openai_stream(logprobs=logprobs)
    segments = not words or "segment" in own.timestamp_granularities
    return options, openai_format(own.response_format, segments=segments, words=words, logprobs=logprobs)


def _own_fields(values: dict[str, Any]) -> OwnFields:
    """Check the fields that only OpenAI's API has, singly and in combination.

    Raises:
        UnsupportedOption: A field is invalid, or does not fit the response format.
    """
    values = {name: value for name, value in values.items() if value not in ("", [], [""])}
    for name in LISTS:
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    if values.get("response_format") == "diarized_json":
        raise UnsupportedOption("response_format", _NO_SPEAKERS)
    try:
        own = msgspec.convert(values, OwnFields, strict=False)
    except msgspec.ValidationError as error:
        raise option_refusal(str(error)) from error
    name = own.response_format
    if own.timestamp_granularities and (own.stream or name != "verbose_json"):
        raise UnsupportedOption(
            "timestamp_granularities", "times come with response_format verbose_json, unstreamed"
        )
    if own.include and not own.stream and name != "json":
        raise UnsupportedOption("include", "logprobs come with response_format json, or in a stream")
    if own.stream and name not in STREAMED_FORMATS:
        raise UnsupportedOption(
            "stream", f"the events hold plain text; {name} is answered whole, or take response_format json"
        )
    if len(own.languages) > 1:
        raise UnsupportedOption("languages", "one language is named, or none, which detects it")
    return own


def _check_chunking(values: Mapping[str, Any]) -> None:
    """Accept `auto` and `server_vad`: recordings are always cut at pauses.

    Raises:
        UnsupportedOption: Another strategy, or parameters of the detector, are given.
    """
    for name, value in values.items():
        inner = name.removeprefix(CHUNKING).strip("[]")
        parts = {inner: value} if inner else _chunking_object(value)
        if unknown := sorted(set(parts) - {"type"}):
            raise UnsupportedOption(
                f"{CHUNKING}[{unknown[0][:60]}]", "the detector of speech has its own settings here"
            )
        if parts.get("type", "auto") not in ("auto", "server_vad"):
            raise UnsupportedOption(CHUNKING, "is auto or server_vad: recordings are cut where nobody speaks")


def _chunking_object(value: Any) -> dict[str, Any]:
    """Parse a field that holds either a word or a JSON object."""
    text = str(value).strip()
    if not text.startswith("{"):
        return {"type": text or "auto"}
    try:
        return read_object(text)
    except RequestError as error:
        raise UnsupportedOption(CHUNKING, f"is not a JSON object: {error}") from error
