"""The JSON bodies of answers, and what of a transcript goes into them.

The wire names `start`, `end` and `word` exist here only. What is not known is left out.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from serve.audio.samples import FRAMES_PER_S
from serve.engine.languages import LANGUAGE_NAMES
from serve.transcript.events import End, Event, Failure, Segment, Start, Transcript, Word


class StartEvent(msgspec.Struct, tag="start", frozen=True, kw_only=True):
    """First line of a streamed answer."""

    duration_s: float | None
    language: str | None


class PlacedWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word and its place, as OpenAI names them. Times are seconds from the start of the recording."""

    word: str
    start: float
    end: float


class WordBody(PlacedWord, frozen=True, kw_only=True):
    """A word of a segment."""

    probability: float


class SegmentBody(msgspec.Struct, frozen=True, kw_only=True):
    """A segment inside a whole transcript. Times are seconds from the start of the recording."""

    id: int
    start: float
    end: float
    text: str
    language: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float
    compression_ratio: float
    language_probability: float | UnsetType = UNSET
    channel: int | UnsetType = UNSET
    words: list[WordBody] | UnsetType = UNSET


class SegmentEvent(SegmentBody, tag="segment", frozen=True, kw_only=True):
    """A segment as a line of a streamed answer."""


class EndEvent(msgspec.Struct, tag="end", frozen=True, kw_only=True):
    """Last line of a streamed answer that went well."""

    text: str
    language: str | None
    language_probability: float | UnsetType = UNSET
    duration_s: float
    n_segments: int
    processing_s: float | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, for machines and for people."""

    code: str
    message: str


class ErrorEvent(msgspec.Struct, tag="error", frozen=True, kw_only=True):
    """Last line of a streamed answer that broke off."""

    error: ErrorBody


class TranscriptBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `json` answer."""

    text: str
    language: str | None
    language_probability: float | UnsetType = UNSET
    duration_s: float
    segments: list[SegmentBody]
    processing_s: float | None


class VerboseSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment with the fields of OpenAI's `verbose_json`, in its order."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `verbose_json` answer, which is OpenAI's."""

    task: str
    language: str
    """English name; empty where nothing was said and no language was asked for."""
    duration: float
    text: str
    segments: list[VerboseSegment]
    words: list[PlacedWord] | UnsetType = UNSET


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer with an error status."""

    error: ErrorBody


SegmentT = TypeVar("SegmentT", bound=SegmentBody)

WireEvent = StartEvent | SegmentEvent | EndEvent | ErrorEvent
"""What one line of NDJSON, or one `data:` field of an event stream, decodes to."""


def wire_event(event: Event) -> WireEvent:
    """Return an event as it is streamed."""
    match event:
        case Start(duration_s=duration_s, language=language):
            known_s = None if duration_s is None else _rounded(duration_s)
            return StartEvent(duration_s=known_s, language=language)
        case Segment():
            return segment_body(SegmentEvent, event)
        case End(transcript=transcript, processing_s=processing_s):
            return EndEvent(
                text=transcript.text,
                language=transcript.language,
                language_probability=_probability(transcript.language_prob),
                duration_s=_rounded(transcript.duration_s),
                n_segments=len(transcript.segments),
                processing_s=None if processing_s is None else _rounded(processing_s),
            )
        case Failure(code=code, message=message):
            return ErrorEvent(error=ErrorBody(code=code, message=message))


def transcript_body(transcript: Transcript, processing_s: float | None) -> TranscriptBody:
    """Return a whole transcript with all that is known."""
    return TranscriptBody(
        text=transcript.text,
        language=transcript.language,
        language_probability=_probability(transcript.language_prob),
        duration_s=_rounded(transcript.duration_s),
        segments=[segment_body(SegmentBody, segment) for segment in transcript.segments],
        processing_s=None if processing_s is None else _rounded(processing_s),
    )


def verbose_body(transcript: Transcript) -> VerboseBody:
    """Return a whole transcript as OpenAI's API words it."""
    words = [
        PlacedWord(word=word.text, start=_rounded(word.start_s), end=_rounded(word.end_s))
        for segment in transcript.segments
        for word in segment.words
    ]
    language = transcript.language or ""
    return VerboseBody(
        task=transcript.task,
        language=LANGUAGE_NAMES.get(language, language),
        duration=_rounded(transcript.duration_s),
        text=transcript.text,
        segments=[_verbose_segment(segment) for segment in transcript.segments],
        words=words or UNSET,
    )


def encode_json(body: msgspec.Struct) -> bytes:
    """Encode with Devanagari as it is, on one line even for readers that split at Unicode line breaks."""
    encoded = msgspec.json.encode(body)
    for line_break in ("\u0085", "\u2028", "\u2029"):
        encoded = encoded.replace(line_break.encode(), f"\\u{ord(line_break):04x}".encode())
    return encoded


def encode_error(code: str, message: str) -> bytes:
    """Return the JSON body of an answer with an error status."""
    return encode_json(ErrorAnswer(error=ErrorBody(code=code, message=message))) + b"\n"


def segment_body(wire_type: type[SegmentT], segment: Segment) -> SegmentT:
    return wire_type(
        id=segment.id,
        start=_rounded(segment.start_s),
        end=_rounded(segment.end_s),
        text=segment.text,
        language=segment.language,
        avg_logprob=round(segment.avg_logprob, 4),
        no_speech_prob=round(segment.no_speech_prob, 4),
        temperature=round(segment.temperature, 2),
        compression_ratio=round(segment.compression_ratio, 3),
        language_probability=_probability(segment.language_prob),
        channel=UNSET if segment.channel is None else segment.channel,
        words=[_word_body(word) for word in segment.words] or UNSET,
    )


def _verbose_segment(segment: Segment) -> VerboseSegment:
    return VerboseSegment(
        id=segment.id,
        seek=round(segment.start_s * FRAMES_PER_S),  # OpenAI counts frames of the spectrogram
        start=_rounded(segment.start_s),
        end=_rounded(segment.end_s),
        text=segment.text,
        tokens=segment.tokens,
        temperature=round(segment.temperature, 2),
        avg_logprob=round(segment.avg_logprob, 4),
        compression_ratio=round(segment.compression_ratio, 3),
        no_speech_prob=round(segment.no_speech_prob, 4),
    )


def _word_body(word: Word) -> WordBody:
    return WordBody(
        word=word.text,
        start=_rounded(word.start_s),
        end=_rounded(word.end_s),
        probability=round(word.probability, 4),
    )


def _probability(probability: float | None) -> float | UnsetType:
    return UNSET if probability is None else round(probability, 4)


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
