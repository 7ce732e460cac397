"""Plan which clips form the batches of an epoch. Knows no audio: it works on durations alone.

A plan follows from the seed and the epoch, so that a resumed run meets the same batches as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.config import TrainConfig

JOIN_PAUSE_S = (0.2, 0.8)
_NO_SPEECH_S = (0.6, 8.0)
_SORTED_TOGETHER = 512  # examples: enough for batches of like length, few enough to keep batches varied


@dataclass(frozen=True, kw_only=True)
class ExamplePlan:
    """What one training window will hold."""

    clips: tuple[int, ...]
    """Indices of the clips, spoken one after the other; empty for a window without speech."""
    duration_s: float
    """Expected length in seconds, pauses included."""


def plan_epoch(durations_s: Sequence[float], config: TrainConfig, epoch: int) -> list[list[ExamplePlan]]:
    """Return the batches of one epoch, each of examples of similar length and at most `batch_s` seconds."""
    rng = np.random.default_rng([config.seed, epoch])
    examples = _plan_examples(durations_s, config, rng)
    batches: list[list[ExamplePlan]] = []
    for start in range(0, len(examples), _SORTED_TOGETHER):
        pool = sorted(examples[start : start + _SORTED_TOGETHER], key=lambda example: example.duration_s)
        batches += _pack(pool, config)
    return [batches[i] for i in rng.permutation(len(batches))]


def _plan_examples(
    durations_s: Sequence[float], config: TrainConfig, rng: np.random.Generator
) -> list[ExamplePlan]:
    order = [int(i) for i in rng.permutation(len(durations_s))]
    examples: list[ExamplePlan] = []
    while order:
        clips = [order.pop()]
        length_s = durations_s[clips[0]]
        if rng.random() < config.join_probability:
            target_s = rng.uniform(length_s, config.max_window_s)
            while order and length_s + JOIN_PAUSE_S[1] + durations_s[order[-1]] <= target_s:
                length_s += JOIN_PAUSE_S[1] + durations_s[order[-1]]
                clips.append(order.pop())
        examples.append(ExamplePlan(clips=tuple(clips), duration_s=length_s))
        if rng.random() < config.no_speech_probability:
            examples.append(ExamplePlan(clips=(), duration_s=float(rng.uniform(*_NO_SPEECH_S))))
    return examples


def _pack(pool: Sequence[ExamplePlan], config: TrainConfig) -> list[list[ExamplePlan]]:
    """Fill batches in the given (ascending) order of length; padding counts."""
    margin_s = sum(config.window_margin_s) / 2
    batches: list[list[ExamplePlan]] = [[]]
    for example in pool:
        window_s = 30.0 if config.encoder_context == "fixed" else example.duration_s + margin_s
        if batches[-1] and (len(batches[-1]) + 1) * window_s > config.batch_s:
            batches.append([])
        batches[-1].append(example)
    return [batch for batch in batches if batch]
