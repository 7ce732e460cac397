"""Plan which clips form the batches of an epoch. Knows no audio: it works on durations alone.

A plan follows from the seed and the epoch, so that a resumed run meets the same batches as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from train.config import TrainConfig
from train.data.manifest import Clip
from train.examples.targets import MAX_TEXT_TOKENS

JOIN_PAUSE_S = (0.2, 0.8)
_NO_SPEECH_S = (0.6, 8.0)
_SORTED_TOGETHER = 512  # examples: enough for batches of like length, few enough to keep batches varied
_SHARDS_TOGETHER = 8  # about a gigabyte, or a dozen hours: what the page cache of a small machine holds


@dataclass(frozen=True, kw_only=True)
class ExamplePlan:
    """What one training window will hold."""

    clips: tuple[int, ...]
    """Indices of the clips, spoken one after the other; empty for a window without speech."""
    duration_s: float
    """Expected length in seconds, pauses included."""


def plan_epoch(
    durations_s: Sequence[float],
    config: TrainConfig,
    epoch: int,
    shards: Sequence[int] | None = None,
    n_tokens: Sequence[int] | None = None,
) -> list[list[ExamplePlan]]:
    """Return the batches of one epoch, each of examples of similar length and at most `batch_s` seconds.

    Args:
        durations_s: length of each clip, in seconds.
        config: decides the seed, the size of batches, and how clips are joined.
        epoch: another one gives another order.
        shards: number of the file that holds each clip. Files then come in random order, and clips are mixed
            within eight of them at a time, so that reading stays near-sequential. None mixes all clips.
        n_tokens: of each clip's text; clips are joined as long as the decoder can write them all. None: 0.
    """
    rng = np.random.default_rng([config.seed, epoch])
    batches: list[list[ExamplePlan]] = []
    for clips in _mixed_together(len(durations_s), shards, rng):
        examples = _plan_examples(clips, durations_s, n_tokens or [0] * len(durations_s), config, rng)
        mixed: list[list[ExamplePlan]] = []
        for start in range(0, len(examples), _SORTED_TOGETHER):
            pool = sorted(examples[start : start + _SORTED_TOGETHER], key=lambda example: example.duration_s)
            mixed += _pack(pool, config)
        batches += [mixed[i] for i in rng.permutation(len(mixed))]
    return batches


def shard_numbers(clips: Sequence[Clip]) -> list[int] | None:
    """Return the number of the shard that holds each clip, for `plan_epoch`; None where no clip is in one.

    Clips that are files of their own count as shards of a thousand neighbours.
    """
    if all(clip.size_bytes is None for clip in clips):
        return None
    keys = [clip.path if clip.size_bytes is not None else place // 1000 for place, clip in enumerate(clips)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _mixed_together(
    n_clips: int, shards: Sequence[int] | None, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield groups of clips that are mixed with one another, each in an order drawn for it."""
    if shards is None:
        yield [int(i) for i in rng.permutation(n_clips)]
        return
    clips_of: dict[int, list[int]] = {}
    for clip, shard in enumerate(shards):
        clips_of.setdefault(shard, []).append(clip)
    order = [list(clips_of)[i] for i in rng.permutation(len(clips_of))]
    for start in range(0, len(order), _SHARDS_TOGETHER):
        clips = [clip for shard in order[start : start + _SHARDS_TOGETHER] for clip in clips_of[shard]]
        yield [clips[i] for i in rng.permutation(len(clips))]


def _plan_examples(
    order: list[int],
    durations_s: Sequence[float],
    n_tokens: Sequence[int],
    config: TrainConfig,
    rng: np.random.Generator,
) -> list[ExamplePlan]:
    """Return examples of one or more clips each, and some without; empties `order`."""
    examples: list[ExamplePlan] = []
    while order:
        clips = [order.pop()]
        length_s = durations_s[clips[0]]
        if rng.random() < config.join_probability:
            target_s = rng.uniform(length_s, config.max_window_s)
            n_written = n_tokens[clips[0]]
            while order and length_s + JOIN_PAUSE_S[1] + durations_s[order[-1]] <= target_s:
                n_written += n_tokens[order[-1]]
                if n_written > MAX_TEXT_TOKENS:
                    break
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
