"""JSON bodies of responses, and what they take from a transcript.

The wire names `start`, `end` and `word` exist here only. Unknown values are omitted.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from serve.audio.recording import ClockReport, MixReport, SoundReport
from serve.audio.samples import FRAMES_PER_S
from serve.engine.languages import LANGUAGE_NAMES
from serve.transcript.events import End, Event, Failure, Segment, Start, Transcript, Word


class TrackBody(msgspec.Struct, frozen=True, kw_only=True):
    """The transcribed audio track, where there are several or one was requested."""

    number: int
    n_tracks: int
    language: str | None
    is_default: bool


class ChannelsBody(msgspec.Struct, frozen=True, kw_only=True):
    """How surround channels, or channels that cancelled each other, were mixed."""

    layout: str
    weights: tuple[float, ...]
    """Weight of each channel; 0 was left out."""
    note: str | UnsetType = UNSET


class ClockBody(msgspec.Struct, frozen=True, kw_only=True):
    """Silence inserted where the container's clock runs on without sound."""

    starts_at: float
    """Time of the first sound, in seconds."""
    gaps: float
    """Sum of all gaps, in seconds."""
    note: str | UnsetType = UNSET


class SoundBody(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to the sound that a user may not expect."""

    track: TrackBody | UnsetType = UNSET
    channels: ChannelsBody | UnsetType = UNSET
    clock: ClockBody | UnsetType = UNSET


class StartEvent(msgspec.Struct, tag="start", frozen=True, kw_only=True):
    """First line of a streamed response."""

    duration_s: float | None
    language: str | None
    sound: SoundBody | UnsetType = UNSET


class PlacedWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word with OpenAI's field names. Times are seconds from the start of the recording."""

    word: str
    start: float
    end: float


class WordBody(PlacedWord, frozen=True, kw_only=True):
    """A word of a segment."""

    probability: float


class SegmentBody(msgspec.Struct, frozen=True, kw_only=True):
    """A segment in a whole transcript. Times are seconds from the start of the recording."""

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
    """A segment as a line of a streamed response."""


class EndEvent(msgspec.Struct, tag="end", frozen=True, kw_only=True):
    """Last line of a successful streamed response."""

    text: str
    language: str | None
    language_probability: float | UnsetType = UNSET
    duration_s: float
    n_segments: int
    processing_s: float | None
    sound: SoundBody | UnsetType = UNSET


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error, for machines and for people."""

    code: str
    message: str


class ErrorEvent(msgspec.Struct, tag="error", frozen=True, kw_only=True):
    """Last line of a streamed response that broke off."""

    error: ErrorBody


class TranscriptBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `json` response."""

    text: str
    language: str | None
    language_probability: float | UnsetType = UNSET
    duration_s: float
    segments: list[SegmentBody]
    processing_s: float | None
    sound: SoundBody | UnsetType = UNSET


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


class UsageBody(msgspec.Struct, tag_field="type", tag="duration", frozen=True, kw_only=True):
    """What OpenAI would bill."""

    seconds: float


class VerboseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `verbose_json` response, which is OpenAI's."""

    task: str
    language: str
    """English name of the text's language; empty where there is no speech and no language was requested."""
    duration: float
    text: str
    segments: list[VerboseSegment] | UnsetType = UNSET
    words: list[PlacedWord] | UnsetType = UNSET
    usage: UsageBody
    sound: SoundBody | UnsetType = UNSET
    """An addition to OpenAI's fields, present only where something unusual was done."""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every response with an error status."""

    error: ErrorBody


SegmentT = TypeVar("SegmentT", bound=SegmentBody)

WireEvent = StartEvent | SegmentEvent | EndEvent | ErrorEvent
"""One line of NDJSON, or one `data:` field of an event stream."""


def wire_event(event: Event) -> WireEvent:
    """Return an event in its streamed form."""
    match event:
        case Start(duration_s=duration_s, language=language, sound=sound):
            known_s = None if duration_s is None else _rounded(duration_s)
            return StartEvent(duration_s=known_s, language=language, sound=sound_body(sound))
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
                sound=sound_body(transcript.sound),
            )
        case Failure(code=code, message=message):
            return ErrorEvent(error=ErrorBody(code=code, message=message))


def transcript_body(transcript: Transcript, processing_s: float | None) -> TranscriptBody:
    """Return a whole transcript with all known fields."""
    return TranscriptBody(
        text=transcript.text,
        language=transcript.language,
        language_probability=_probability(transcript.language_prob),
        duration_s=_rounded(transcript.duration_s),
        segments=[segment_body(SegmentBody, segment) for segment in transcript.segments],
        processing_s=None if processing_s is None else _rounded(processing_s),
        sound=sound_body(transcript.sound),
    )


def verbose_body(transcript: Transcript) -> VerboseBody:
    """Return a whole transcript in the form of OpenAI's API."""
    words = [
        PlacedWord(word=word.text, start=_rounded(word.start_s), end=_rounded(word.end_s))
        for segment in transcript.segments
        for word in segment.words
    ]
    language = "en" if transcript.task == "translate" else transcript.language or ""
    return VerboseBody(
        task=transcript.task,
        language=LANGUAGE_NAMES.get(language, language),
        duration=_rounded(transcript.duration_s),
        text=transcript.text,
        segments=[_verbose_segment(segment) for segment in transcript.segments],
        words=words or UNSET,
        usage=usage_body(transcript),
        sound=sound_body(transcript.sound),
    )


def usage_body(transcript: Transcript) -> UsageBody:
    """Return the recording's length as OpenAI bills it."""
    return UsageBody(seconds=_rounded(transcript.duration_s))


def sound_body(sound: SoundReport | None) -> SoundBody | UnsetType:
    """Return what was done to the sound, in numbers for machines and notes for people."""
    if sound is None:
        return UNSET
    track, mix, clock = sound.track, sound.mix, sound.clock
    return SoundBody(
        track=UNSET
        if track is None
        else TrackBody(
            number=track.number,
            n_tracks=track.n_tracks,
            language=track.language,
            is_default=track.is_default,
        ),
        channels=UNSET
        if mix is None
        else ChannelsBody(layout=mix.layout, weights=mix.weights, note=_mix_note(mix)),
        clock=UNSET
        if clock is None
        else ClockBody(
            starts_at=_rounded(clock.starts_at_s), gaps=_rounded(clock.gaps_s), note=_clock_note(clock)
        ),
    )


def _mix_note(mix: MixReport) -> str | UnsetType:
    if not mix.turned:
        return UNSET
    turned = " and ".join(str(channel) for channel in mix.turned)
    return f"channel {turned} cancelled the others, and was inverted where it did"


def _clock_note(clock: ClockReport) -> str | UnsetType:
    if not clock.leap_s:
        return UNSET
    leap = f"the container's clock leaps by {clock.leap_s:.0f} s"
    return f"{leap}; no silence was put there, so times are earlier than its own"


def encode_json(body: msgspec.Struct) -> bytes:
    """Encode on one line, with Devanagari unescaped, and Unicode line breaks escaped for naive readers."""
    encoded = msgspec.json.encode(body)
    for line_break in ("\u0085", "\u2028", "\u2029"):
        encoded = encoded.replace(line_break.encode(), f"\\u{ord(line_break):04x}".encode())
    return encoded


def encode_error(code: str, message: str) -> bytes:
    """Return the JSON body of a response with an error status."""
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
        seek=round(segment.start_s * FRAMES_PER_S),  # OpenAI counts spectrogram frames
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
