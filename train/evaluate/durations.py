"""Group utterances by duration, with each group's WER and its interval. Knows no audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.evaluate.scoring import WordErrors, rate, wer_interval

EDGES_S = (0.0, 2.0, 4.0, 6.0, 10.0, 15.0, 30.0, float("inf"))
"""Edges of the groups, in seconds; a clip as long as an edge is in the longer group."""


@dataclass(frozen=True, kw_only=True)
class DurationBucket:
    """Utterances of similar duration."""

    low_s: float
    high_s: float
    utterances: int
    wer: float
    wer_low: float
    """Lower end of the bootstrap 95 % interval."""
    wer_high: float

    @property
    def label(self) -> str:
        """The range for people, such as `2-4 s`."""
        if self.high_s == float("inf"):
            return f"over {self.low_s:g} s"
        return f"{self.low_s:g}\u2013{self.high_s:g} s"


def wer_by_duration(
    durations_s: Sequence[float], words: WordErrors, *, seed: int = 0
) -> list[DurationBucket]:
    """Return the non-empty groups, shortest first; `words` is (n_utterances, 4)."""
    groups = np.digitize(durations_s, EDGES_S) - 1
    buckets = []
    for group in sorted({int(group) for group in groups}):
        chosen = words[groups == group]
        low, high = wer_interval(chosen, seed=seed)
        buckets.append(
            DurationBucket(
                low_s=EDGES_S[group],
                high_s=EDGES_S[group + 1],
                utterances=len(chosen),
                wer=rate(chosen),
                wer_low=low,
                wer_high=high,
            )
        )
    return buckets
