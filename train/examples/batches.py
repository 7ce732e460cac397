"""Plan which clips form the batches of an epoch. Knows no audio, only durations, languages and weights.

Seed and epoch determine the plan, so a resumed run gets the same batches as an uninterrupted one. An epoch
holds every clip as often as its weight says: three times for a weight of 3, in one epoch of five for 0.2.
Within a few epochs all clips of one weight are heard equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.config import TrainConfig
from train.data.manifest import Clip
from train.examples.targets import MAX_TEXT_TOKENS

JOIN_PAUSE_S = (0.2, 0.8)
_NO_SPEECH_S = (0.6, 8.0)
_SORTED_TOGETHER = 512  # examples: enough for batches of similar lengths, few enough for varied batches
_SHARDS_TOGETHER = 8  # about a gigabyte, or a dozen hours: fits the page cache of a small machine


@dataclass(frozen=True, kw_only=True)
class ExamplePlan:
    """The clips of one training window."""

    clips: tuple[int, ...]
    """Indices of clips spoken in sequence; empty for a window without speech."""
    duration_s: float
    """Expected duration, pauses included."""


def plan_epoch(
    durations_s: Sequence[float],
    config: TrainConfig,
    epoch: int,
    shards: Sequence[int | None] | None = None,
    *,
    weights: Sequence[float] | None = None,
    languages: Sequence[str | None] | None = None,
    n_tokens: Sequence[int] | None = None,
) -> list[list[ExamplePlan]]:
    """Return the batches of one epoch, each with examples of similar length and at most `batch_s` seconds.

    Args:
        durations_s: Duration of each clip, in seconds.
        config: Sets the seed, the size of batches, and how clips are joined.
        epoch: Number of the epoch, which changes the order.
        shards: Number of each clip's shard, None for a clip in its own file. Shards come in random order, and
            clips are mixed within eight shards at a time, so that reading stays near-sequential. Clips in
            their own files are spread over the whole epoch. None mixes all clips.
        weights: How often each clip is heard in an epoch; None means once.
        languages: Language of each clip; only clips of one language are joined. None means all are equal.
        n_tokens: Tokens of each clip's text; joined texts must fit the decoder. None counts 0.
    """
    rng = np.random.default_rng([config.seed, epoch])
    counts = _counts(np.ones(len(durations_s)) if weights is None else np.array(weights), config.seed, epoch)
    batches: list[list[ExamplePlan]] = []
    for clips in _mixed_together(counts, shards, rng):
        examples = _plan_examples(clips, durations_s, n_tokens, languages, config, rng)
        mixed: list[list[ExamplePlan]] = []
        for start in range(0, len(examples), _SORTED_TOGETHER):
            pool = sorted(examples[start : start + _SORTED_TOGETHER], key=lambda example: example.duration_s)
            mixed += _pack(pool, config)
        batches += [mixed[i] for i in rng.permutation(len(mixed))]
    return batches


def shard_numbers(clips: Sequence[Clip]) -> list[int | None] | None:
    """Return the number of each clip's shard, for `plan_epoch`; None where no clip is in a shard."""
    paths = [clip.path if clip.size_bytes is not None else None for clip in clips]
    numbers = {path: number for number, path in enumerate(dict.fromkeys(filter(None, paths)))}
    return [numbers[path] if path else None for path in paths] if numbers else None


def _counts(weights: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return how often each clip is heard in an epoch, (n_clips,).

    A clip of weight w is heard floor((epoch + 1) w + u) - floor(epoch w + u) times. Its phase u is spread
    evenly over the clips of that weight, so that no clip is left out for long, and epochs are equally long.
    """
    rng = np.random.default_rng([seed, 0, 1])  # differs from every epoch's generator
    phases = np.empty(len(weights))
    for weight in np.unique(weights):
        alike = np.flatnonzero(weights == weight)
        phases[alike] = (rng.permutation(len(alike)) + 0.5) / len(alike)
    heard = np.floor((epoch + 1) * weights + phases) - np.floor(epoch * weights + phases)
    return heard.astype(np.int64)


def _mixed_together(
    counts: NDArray[np.int64], shards: Sequence[int | None] | None, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield groups of clips to be mixed, each in random order."""
    spread: list[int] = []
    clips_of: dict[tuple[int, int], list[int]] = {}  # a shard whose clips are heard twice is read twice
    for clip, count in enumerate(counts):
        shard = shards[clip] if shards is not None else None
        for number in range(count):
            (spread if shard is None else clips_of.setdefault((shard, number), [])).append(clip)
    order = [list(clips_of)[i] for i in rng.permutation(len(clips_of))] if clips_of else []
    groups = [order[start : start + _SHARDS_TOGETHER] for start in range(0, len(order), _SHARDS_TOGETHER)]
    groups = groups or [[]]
    if order and spread:
        spread = [spread[i] for i in rng.permutation(len(spread))]
    for place, group in enumerate(groups):
        clips = [clip for key in group for clip in clips_of[key]] + spread[place :: len(groups)]
        yield [clips[i] for i in rng.permutation(len(clips))]


def _plan_examples(
    order: list[int],
    durations_s: Sequence[float],
    n_tokens: Sequence[int] | None,
    languages: Sequence[str | None] | None,
    config: TrainConfig,
    rng: np.random.Generator,
) -> list[ExamplePlan]:
    """Return examples of one or more clips each, and some without speech; empties `order`."""

    def follows(clip: int, before: list[int], room_s: float) -> bool:
        alike = languages is None or languages[clip] == languages[before[0]]
        n_written = sum(n_tokens[each] for each in (*before, clip)) if n_tokens is not None else 0
        return alike and n_written <= MAX_TEXT_TOKENS and JOIN_PAUSE_S[1] + durations_s[clip] <= room_s

    examples: list[ExamplePlan] = []
    while order:
        clips = [order.pop()]
        length_s = durations_s[clips[0]]
        if rng.random() < config.join_probability:
            target_s = rng.uniform(length_s, config.max_window_s)
            while order and follows(order[-1], clips, target_s - length_s):
                length_s += JOIN_PAUSE_S[1] + durations_s[order[-1]]
                clips.append(order.pop())
        examples.append(ExamplePlan(clips=tuple(clips), duration_s=length_s))
        if rng.random() < config.no_speech_probability:
            examples.append(ExamplePlan(clips=(), duration_s=float(rng.uniform(*_NO_SPEECH_S))))
    return examples


def _pack(pool: Sequence[ExamplePlan], config: TrainConfig) -> list[list[ExamplePlan]]:
    """Fill batches in ascending order of length, counting padding."""
    margin_s = sum(config.window_margin_s) / 2
    batches: list[list[ExamplePlan]] = [[]]
    for example in pool:
        window_s = 30.0 if config.encoder_context == "fixed" else example.duration_s + margin_s
        if batches[-1] and (len(batches[-1]) + 1) * window_s > config.batch_s:
            batches.append([])
        batches[-1].append(example)
    return [batch for batch in batches if batch]
