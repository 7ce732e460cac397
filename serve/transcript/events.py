"""The results of a transcription: segments, the transcript, and the events that a pipeline yields.

Plain records in recording time (seconds from the recording's first sample). Knows no wire names and no
formats; `serve.transcript.formats` turns these into bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from serve.audio.recording import SoundReport
from serve.engine import ScoredToken


@dataclass(frozen=True, kw_only=True)
class Word:
    text: str
    """The word, without spaces."""
    start_s: float
    end_s: float
    probability: float
    """Mean probability of the word's tokens, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of recognised speech."""

    id: int
    """Index among the transcript's segments."""
    start_s: float
    end_s: float
    text: str
    """The text, without leading or trailing space."""
    avg_logprob: float
    """Mean natural-log probability of the segment's tokens."""
    no_speech_prob: float
    """Probability of the model's no-speech token at the start of the window, 0 to 1."""
    language: str
    """Code of the spoken language, such as `mr`."""
    language_prob: float | None = None
    """Probability of the detected language; None where caller or artifact named it."""
    tokens: tuple[int, ...] = ()
    """The model's text tokens."""
    temperature: float = 0.0
    """Temperature at which the tokens were drawn; 0 took the likeliest."""
    compression_ratio: float = 1.0
    """Letters divided by zlib-compressed bytes; above 2.4 the text repeats itself."""
    words: tuple[Word, ...] = ()
    """In order, within the segment's times; empty where word times were not requested."""
    scored_tokens: tuple[ScoredToken, ...] = ()
    """Tokens of the text with their probabilities; empty where word times were not requested."""
    channel: int | None = None
    """Channel of the recording, from 0, where channels are split."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The whole text of one recording."""

    text: str
    language: str | None
    """None where there is no speech and no language was requested."""
    duration_s: float
    """Duration of the whole recording, silence included."""
    language_prob: float | None = None
    """Mean probability of the detected language over its windows."""
    task: str = "transcribe"
    segments: tuple[Segment, ...] = ()
    sound: SoundReport | None = None
    """What was done to the sound that a user may not expect; None for nothing."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The recording was accepted; text follows."""

    duration_s: float | None
    """Declared duration, exact up to 30 s; None where it is unknown until the `End`."""
    language: str | None = None
    """The requested language; None for detection."""
    sound: SoundReport | None = None
    """What was done to the sound so far; the transcript has the final report."""


@dataclass(frozen=True, kw_only=True)
class End:
    """The transcription is complete."""

    transcript: Transcript
    processing_s: float | None = None
    """Wall time of this request in seconds, waiting included."""


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
class LiveWords:
    """What was heard last in the open phrase of a live stream."""

    committed: tuple[Word, ...]
    """Words that are new, and final: neither they nor their times change any more."""
    partial: str
    """The text behind all committed words; it replaces the partial text before it."""
    phrase: Segment
    """The open phrase so far, with its partial text. Its text is empty where nothing was said after all."""
    lag_s: float
    """From when the last word of this event was spoken until the event."""


@dataclass(frozen=True, kw_only=True)
class LivePhrase:
    """A phrase that is over: all its words are committed."""

    segment: Segment
    lag_s: float
    """From when its last word was spoken until the event."""


Wish = Literal["finalise", "clear"]
"""What a client may ask of the open phrase: to end it now, or to forget it."""


@dataclass(frozen=True)
class LiveDone:
    """A wish was done: all events before this one are of sound that came before it."""

    wish: Wish


LiveEvent = LiveWords | LivePhrase | LiveDone
"""A phrase has any number of `LiveWords`, and then its `LivePhrase`, unless nothing was said."""


Event = Start | Segment | End | Failure
"""One `Start`, any number of `Segment`, then one `End` or `Failure`."""


def join_text(texts: Iterable[str]) -> str:
    """Join segment texts with single spaces, skipping empty ones."""
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
