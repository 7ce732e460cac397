"""Answer formats: events -> bytes, and which format an `Accept` header asks for.

Each answer takes one fresh encoder from its `Format`. An encoder is fed every event in order and returns the
bytes to send for it, perhaps none; it does no I/O, so threads and coroutines use it alike. The wire names
`start` and `end` exist here only. Knows no HTTP beyond media types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from serve.errors import NotAcceptable
from serve.transcript import End, Event, Failure, Segment, Start, Transcript


class StartEvent(msgspec.Struct, tag="start", frozen=True, kw_only=True):
    """First line of a streamed answer."""

    duration_s: float | None
    language: str | None


class SegmentBody(msgspec.Struct, frozen=True, kw_only=True):
    """A segment inside a whole transcript. Times are seconds from the start of the recording."""

    id: int
    start: float
    end: float
    text: str
    language: str
    avg_logprob: float
    no_speech_prob: float


class SegmentEvent(SegmentBody, tag="segment", frozen=True, kw_only=True):
    """A segment as a line of a streamed answer."""


class EndEvent(msgspec.Struct, tag="end", frozen=True, kw_only=True):
    """Last line of a streamed answer that went well."""

    text: str
    language: str | None
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
    """The `application/json` answer."""

    text: str
    language: str | None
    duration_s: float
    segments: list[SegmentBody]
    processing_s: float | None


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer with an error status."""

    error: ErrorBody


SegmentT = TypeVar("SegmentT", bound=SegmentBody)

WireEvent = StartEvent | SegmentEvent | EndEvent | ErrorEvent
"""What one line of NDJSON, or one `data:` field of an event stream, decodes to."""


class Encoder(Protocol):
    """Turns the events of one answer into bytes."""

    def encode(self, event: Event) -> bytes:
        """Return the bytes to send for the next event; empty where the format has nothing to say yet."""
        ...


class JsonEncoder:
    """One JSON document, complete at the `End`."""

    def encode(self, event: Event) -> bytes:
        """Return the whole transcript at the `End`, nothing before."""
        match event:
            case End(transcript=transcript, processing_s=processing_s):
                return encode_transcript(transcript, processing_s)
            case Failure(code=code, message=message):
                return encode_error(code, message)
        return b""


class NdjsonEncoder:
    """One JSON object a line; every call returns complete lines."""

    def encode(self, event: Event) -> bytes:
        """Return the event as one line."""
        return _json(_wire_event(event)) + b"\n"


class SseEncoder:
    """Server-sent events: the event's type as `event:`, its NDJSON line as `data:`."""

    def encode(self, event: Event) -> bytes:
        """Return the event as one server-sent event."""
        wire = _wire_event(event)
        return b"event: %s\ndata: %s\n\n" % (_type_of(wire).encode(), _json(wire))


class TextEncoder:
    """One line of plain text a segment."""

    def encode(self, event: Event) -> bytes:
        """Return the segment's text as one line."""
        match event:
            case Segment(text=text) if text.strip():
                return f"{_one_line(text)}\n".encode()
            case Failure():
                return f"{_failure_line(event)}\n".encode()
        return b""


class SrtEncoder:
    """SubRip cues, numbered from 1. An error becomes a last cue, for the format has no comments."""

    def __init__(self) -> None:
        self._n_cues = 0
        self._end_s = 0.0

    def encode(self, event: Event) -> bytes:
        """Return the segment as one cue."""
        match event:
            case Segment(text=text, start_s=start_s, end_s=end_s) if text.strip():
                return self._cue(start_s, end_s, _one_line(text))
            case Failure():
                return self._cue(self._end_s, self._end_s + 2.0, _failure_line(event))
        return b""

    def _cue(self, start_s: float, end_s: float, text: str) -> bytes:
        self._n_cues += 1
        self._end_s = end_s
        # An arrow inside the text would start a new cue in naive readers.
        text = text.replace("-->", "→")
        return f"{self._n_cues}\n{_clock(start_s, ',')} --> {_clock(end_s, ',')}\n{text}\n\n".encode()


class VttEncoder:
    """WebVTT cues. An error becomes a comment."""

    def encode(self, event: Event) -> bytes:
        """Return the header at the `Start`, then the segment as one cue."""
        match event:
            case Start():
                return b"WEBVTT\n\n"
            case Segment(text=text, start_s=start_s, end_s=end_s) if text.strip():
                escaped = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                return f"{_clock(start_s, '.')} --> {_clock(end_s, '.')}\n{escaped}\n\n".encode()
            case Failure():
                return f"NOTE {_failure_line(event).replace('-->', '→')}\n\n".encode()
        return b""


@dataclass(frozen=True, kw_only=True)
class Format:
    """An answer format."""

    media_type: str
    content_type: str
    """Value of the answer's `Content-Type`."""
    new_encoder: Callable[[], Encoder]
    streams: bool
    """Whether bytes come before the `End`."""
    aliases: tuple[str, ...] = ()


def _format(
    media_type: str,
    new_encoder: Callable[[], Encoder],
    *,
    streams: bool = True,
    aliases: tuple[str, ...] = (),
) -> Format:
    is_json = media_type.startswith("application/") and "json" in media_type
    return Format(
        media_type=media_type,
        content_type=media_type if is_json else f"{media_type}; charset=utf-8",
        new_encoder=new_encoder,
        streams=streams,
        aliases=aliases,
    )


# Where a client likes several equally, the first of these wins.
FORMATS = (
    _format("application/json", JsonEncoder, streams=False),
    _format("application/x-ndjson", NdjsonEncoder, aliases=("application/ndjson",)),
    _format("application/jsonlines", NdjsonEncoder, aliases=("application/x-jsonlines", "application/jsonl")),
    _format("text/plain", TextEncoder),
    _format("text/event-stream", SseEncoder),
    _format("text/vtt", VttEncoder),
    _format("application/x-subrip", SrtEncoder, aliases=("text/srt", "application/srt")),
)


def negotiate_format(accept: str | None) -> Format:
    """Choose the format for an `Accept` header (RFC 9110, section 12.5.1); JSON where it is absent or empty.

    Raises:
        NotAcceptable: no format matches.
    """
    if accept is None or not accept.strip():
        return FORMATS[0]
    ranges = list(_media_ranges(accept))
    best = max(FORMATS, key=lambda candidate: _quality(candidate, ranges))
    if _quality(best, ranges) <= 0:
        offered = ", ".join(candidate.media_type for candidate in FORMATS)
        raise NotAcceptable(f"no answer format matches the Accept header; choose one of {offered}")
    return best


def encode_stream(events: Iterable[Event], answer_format: Format) -> Iterator[bytes]:
    """Encode events as they come, leaving out empty pieces."""
    encoder = answer_format.new_encoder()
    return (piece for event in events if (piece := encoder.encode(event)))


def encode_transcript(transcript: Transcript, processing_s: float | None = None) -> bytes:
    """Return the `application/json` answer."""
    segments = [_segment_body(SegmentBody, segment) for segment in transcript.segments]
    body = TranscriptBody(
        text=transcript.text,
        language=transcript.language,
        duration_s=_rounded(transcript.duration_s),
        segments=segments,
        processing_s=None if processing_s is None else _rounded(processing_s),
    )
    return _json(body) + b"\n"


def encode_error(code: str, message: str) -> bytes:
    """Return the JSON body of an answer with an error status."""
    return _json(ErrorAnswer(error=ErrorBody(code=code, message=message))) + b"\n"


def _wire_event(event: Event) -> WireEvent:
    match event:
        case Start(duration_s=duration_s, language=language):
            known_s = None if duration_s is None else _rounded(duration_s)
            return StartEvent(duration_s=known_s, language=language)
        case Segment():
            return _segment_body(SegmentEvent, event)
        case End(transcript=transcript, processing_s=processing_s):
            return EndEvent(
                text=transcript.text,
                language=transcript.language,
                duration_s=_rounded(transcript.duration_s),
                n_segments=len(transcript.segments),
                processing_s=None if processing_s is None else _rounded(processing_s),
            )
        case Failure(code=code, message=message):
            return ErrorEvent(error=ErrorBody(code=code, message=message))


def _segment_body(wire_type: type[SegmentT], segment: Segment) -> SegmentT:
    return wire_type(
        id=segment.id,
        start=_rounded(segment.start_s),
        end=_rounded(segment.end_s),
        text=segment.text,
        language=segment.language,
        avg_logprob=round(segment.avg_logprob, 4),
        no_speech_prob=round(segment.no_speech_prob, 4),
    )


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _json(body: msgspec.Struct) -> bytes:
    """Encode with Devanagari as it is, on one line even for readers that split at Unicode line breaks."""
    encoded = msgspec.json.encode(body)
    for line_break in ("\u0085", "\u2028", "\u2029"):
        encoded = encoded.replace(line_break.encode(), f"\\u{ord(line_break):04x}".encode())
    return encoded


def _type_of(wire: WireEvent) -> str:
    return str(wire.__struct_config__.tag)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _failure_line(failure: Failure) -> str:
    return _one_line(f"[error: {failure.code}: {failure.message}]")


def _clock(seconds: float, decimal_mark: str) -> str:
    """Write seconds as HH:MM:SS and milliseconds."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _media_ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each media range of an `Accept` header and its quality; what cannot be read is left out."""
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value.strip())
                except ValueError:
                    quality = -1.0
        if media_range.count("/") == 1 and 0.0 <= quality <= 1.0:
            yield media_range, quality


def _quality(candidate: Format, ranges: list[tuple[str, float]]) -> float:
    """Return the quality of the most specific range that matches, 0 where none does."""
    main_type = candidate.media_type.partition("/")[0]
    for pattern in ((candidate.media_type, *candidate.aliases), (f"{main_type}/*",), ("*/*",)):
        matching = [quality for media_range, quality in ranges if media_range in pattern]
        if matching:
            return max(matching)
    return 0.0
