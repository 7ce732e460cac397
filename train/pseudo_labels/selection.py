"""Choose segments of transcripts to train on: by confidence, and by the agreement of two outputs.

A segment becomes a row of a manifest, with its part of the recording. Opens no recording and no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import UNSET

from serve.errors import ConfigError
from serve.transcript.wire import SegmentBody
from train.config import TrainConfig
from train.data.filters import MAX_CLIP_S, DropLog, Filters, HeldOut, Reason
from train.evaluate.scoring import score_utterances
from train.pseudo_labels.rows import Row

MARGIN_S = 0.2
"""Sound around a segment that belongs to its clip: detectors of speech cut soft beginnings."""
SOURCE = "pseudo-labels"


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """What a segment must meet."""

    min_logprob: float = -0.4
    """Least mean log-probability of a segment's tokens."""
    max_no_speech: float = 0.8
    """Highest probability of no speech; adapters give half of it and more to speech that they hear well."""
    max_compression: float = 2.4
    """Highest ratio of a text's letters to its compressed bytes; a text that repeats itself has more."""
    max_cer: float = 0.1
    """Most characters in which two outputs may differ, as a share of the first."""
    min_s: float = 1.0
    """Shortest clip, in seconds."""
    max_s: float = MAX_CLIP_S
    """Longest clip, in seconds."""

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            ConfigError: Lists every fault.
        """
        rules = (
            (self.min_logprob <= 0, "min-logprob is at most 0"),
            (0 <= self.max_no_speech <= 1, "max-no-speech is from 0 to 1"),
            (self.max_compression > 0, "max-compression is above 0"),
            (self.max_cer >= 0, "max-cer is not negative"),
            (
                0 < self.min_s < self.max_s <= MAX_CLIP_S,
                f"min-s is below max-s, which is at most {MAX_CLIP_S:g}",
            ),
        )
        if faults := [fault for holds, fault in rules if not holds]:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which segments were chosen."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a manifest."""
    log: DropLog = field(default_factory=DropLog)
    """The others, with reasons."""
    seconds: float = 0.0
    """Length of all segments, whether they were chosen or not."""

    @property
    def kept_s(self) -> float:
        """Length of the chosen clips, in seconds."""
        return sum(float(row["end_s"]) - float(row["start_s"]) for row in self.kept)

    def as_dict(self) -> dict[str, Any]:
        """Return counts, seconds and reasons."""
        return {
            "segments": len(self.kept) + len(self.log),
            "seconds": round(self.seconds, 1),
            "kept": len(self.kept),
            "kept_s": round(self.kept_s, 1),
            "left_out": self.log.counts,
        }

    def manifest(self) -> str:
        """Return the rows as JSON lines."""
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.kept)


def select(
    first: Mapping[str, Row],
    second: Mapping[str, Row] | None,
    criteria: Criteria,
    language: str,
    held_out: HeldOut | None = None,
) -> Selection:
    """Choose segments of the first output.

    Args:
        first: Rows by recording; their texts are those that are trained on.
        second: What another adapter or decoder heard, or this one in a changed sound; or None.
        language: Whisper's code, where a row names none.
        held_out: What must not be trained on.
    """
    log, kept, seconds = DropLog(), [], 0.0
    filters = Filters(
        language=language,
        min_duration_s=criteria.min_s,
        max_duration_s=criteria.max_s,
        held_out=held_out or HeldOut(),
    )
    for path, row in first.items():
        for segment in row.segments:
            start_s = round(max(0.0, segment.start - MARGIN_S), 3)
            end_s = round(min(row.duration_s, segment.end + MARGIN_S), 3)
            seconds += end_s - start_s
            spoken = segment.language or row.language or language
            fault = (
                _channel_fault(segment)
                or filters.text_fault(segment.text, spoken, None)
                or filters.duration_fault(end_s - start_s)
                or _confidence_fault(segment, criteria)
                or (second is not None and _agreement_fault(segment, spoken, second.get(path), criteria))
            )
            if fault:
                log.drop(fault[0], f"{path}:{segment.start:.2f}", fault[1])
                continue
            kept.append(
                {
                    "audio": str(Path(path).absolute()),
                    "text": segment.text.strip(),
                    "language": spoken,
                    "start_s": start_s,
                    "end_s": end_s,
                    "source": SOURCE,
                    "confidence": round(math.exp(segment.avg_logprob), 4),
                }
            )
    return Selection(kept=kept, log=log, seconds=seconds)


def _channel_fault(segment: SegmentBody) -> tuple[Reason, str] | None:
    """A clip is made of all channels, in which others may speak at the same time."""
    if segment.channel is UNSET:
        return None
    return Reason.ONE_CHANNEL, f"heard in channel {segment.channel} alone"


def _confidence_fault(segment: SegmentBody, criteria: Criteria) -> tuple[Reason, str] | None:
    if segment.no_speech_prob > criteria.max_no_speech:
        return Reason.NO_SPEECH, f"no speech, with a probability of {segment.no_speech_prob:.2f}"
    if segment.avg_logprob < criteria.min_logprob:
        return (
            Reason.UNSURE,
            f"log-probability {segment.avg_logprob:.2f}; the least is {criteria.min_logprob:g}",
        )
    if segment.compression_ratio > criteria.max_compression:
        return Reason.REPETITIVE, f"the text repeats itself: compressed {segment.compression_ratio:.1f} times"
    return None


def _agreement_fault(
    segment: SegmentBody, language: str, other: Row | None, criteria: Criteria
) -> tuple[Reason, str] | None:
    if other is None:
        return Reason.NOT_TWICE, "the second output lacks the recording"
    found = score_utterances(
        [segment.text], [_text_within(other.segments, segment)], TrainConfig.profile, languages=[language]
    )
    if found[0].cer > criteria.max_cer:
        return Reason.DISAGREEMENT, f"the outputs differ in {found[0].cer:.0%} of the characters"
    return None


def _text_within(segments: Sequence[SegmentBody], place: SegmentBody) -> str:
    """Return the text of the segments whose middle lies in another segment, which may be cut elsewhere."""
    inside = (each for each in segments if place.start <= (each.start + each.end) / 2 <= place.end)
    return " ".join(each.text.strip() for each in inside)
