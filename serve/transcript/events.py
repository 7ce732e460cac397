"""What a transcription yields: segments, the whole transcript, and the events a pipeline emits on the way.

Plain records in recording time (seconds from the recording's first sample). Knows no wire names and no
answer formats; `serve.transcript.formats` turns these into bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve.audio.recording import SoundReport
from serve.engine import ScoredToken


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word of a segment."""

    text: str
    """Without spaces."""
    start_s: float
    end_s: float
    probability: float
    """Mean probability of the word's tokens, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One stretch of recognised speech."""

    id: int
    """Position among the transcript's segments, from 0."""
    start_s: float
    end_s: float
    text: str
    """Without leading or trailing space."""
    avg_logprob: float
    """Mean log-probability of the segment's tokens, natural logarithm."""
    no_speech_prob: float
    """Probability of the model's own no-speech token at the start of the window, 0 to 1."""
    language: str
    """Code of the spoken language, such as `mr`."""
    language_prob: float | None = None
    """Probability of the detected language; None where the caller or the artifact named it."""
    tokens: tuple[int, ...] = ()
    """The model's text tokens."""
    temperature: float = 0.0
    """At which the tokens were drawn; 0 took the likeliest."""
    compression_ratio: float = 1.0
    """Letters to the bytes that zlib makes of them; above 2.4 the text repeats itself."""
    words: tuple[Word, ...] = ()
    """In order, within the segment's times; empty where word times were not asked for."""
    scored_tokens: tuple[ScoredToken, ...] = ()
    """What makes up the text, with its probabilities; empty where word times were not asked for."""
    channel: int | None = None
    """Number of the recording's channel, from 0, where channels are told apart."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Everything heard in one recording."""

    text: str
    language: str | None
    """None where nothing was said and no language was asked for."""
    duration_s: float
    """Length of the whole recording, silence included."""
    language_prob: float | None = None
    """Mean probability of the detected language over the windows that were heard in it."""
    task: str = "transcribe"
    segments: tuple[Segment, ...] = ()
    sound: SoundReport | None = None
    """What was done to the sound that nobody would expect; None for nothing."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The recording was accepted; text follows."""

    duration_s: float | None
    """Length that the recording announces, exact up to 30 s; None where it announces none. See `End`."""
    language: str | None = None
    """The language asked for; None where it is to be detected."""
    sound: SoundReport | None = None
    """What was done to the sound so far; the transcript has all of it."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Nothing more will be heard."""

    transcript: Transcript
    processing_s: float | None = None
    """Wall time spent on this request, waiting included."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The transcription broke off. Always the last event."""

    code: str
    """Stable and machine-readable, such as `engine_error`."""
    message: str
    """One sentence for people."""
    is_callers: bool = False
    """Whether the caller can fix it; otherwise the fault is the service's."""


@dataclass(frozen=True, kw_only=True)
class LiveText:
    """What was said in a live stream, or what it seems to be so far."""

    segment: Segment
    """Where it is not final, its number is that of the first final one that will replace it."""
    is_final: bool


Event = Start | Segment | End | Failure
"""One `Start`, any number of `Segment`, then one `End` or `Failure`."""


def join_text(texts: Iterable[str]) -> str:
    """Join segment texts with single spaces, leaving empty ones out."""
    return " ".join(stripped for text in texts if (stripped := text.strip()))


def build_transcript(
    segments: Iterable[Segment],
    *,
    duration_s: float,
    language: str | None,
    language_prob: float | None = None,
    task: str = "transcribe",
    sound: SoundReport | None = None,
) -> Transcript:
    """Join segments into a transcript."""
    kept = tuple(segments)
    return Transcript(
        text=join_text(segment.text for segment in kept),
        language=language,
        duration_s=duration_s,
        language_prob=language_prob,
        task=task,
        segments=kept,
        sound=sound,
    )
