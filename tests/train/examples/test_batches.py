"""The plan of an epoch: every clip once, batches within their budget, the same again from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.config import TrainConfig
from train.data.manifest import Clip
from train.examples.batches import plan_epoch, shard_numbers

DURATIONS_S = np.random.default_rng(0).uniform(0.6, 11.0, 1_300).tolist()


def config(**values):
    return TrainConfig(
        **{"name": "x", "output_dir": Path("x"), "train_data": ("x.jsonl",), "max_window_s": 14, **values}
    )


@pytest.mark.parametrize("values", [{}, {"join_probability": 0.5, "no_speech_probability": 0.2}])
def test_every_clip_is_heard_exactly_once_an_epoch(values):
    plan = plan_epoch(DURATIONS_S, config(**values), epoch=0)
    heard = [clip for batch in plan for example in batch for clip in example.clips]
    assert sorted(heard) == list(range(len(DURATIONS_S)))


@pytest.mark.parametrize("context", ["dynamic", "fixed"])
def test_no_batch_is_over_its_budget_with_padding_counted(context):
    settings = config(batch_s=90, encoder_context=context, join_probability=0.3)
    for batch in plan_epoch(DURATIONS_S, settings, epoch=0):
        longest_s = max(example.duration_s for example in batch) + sum(settings.window_margin_s) / 2
        assert len(batch) * (30 if context == "fixed" else longest_s) <= 90


def test_a_clip_over_the_budget_is_a_batch_of_its_own():
    plan = plan_epoch([9.0, 9.0, 1.0], config(batch_s=5), epoch=0)
    assert sorted(len(batch) for batch in plan) == [1, 1, 1]


def test_clips_are_joined_only_as_long_as_the_decoder_can_write_them():
    n_tokens = [round(40 * duration_s) for duration_s in DURATIONS_S]
    settings = config(join_probability=1.0)
    plan = plan_epoch(DURATIONS_S, settings, 0, n_tokens=n_tokens)
    examples = [example.clips for batch in plan for example in batch]
    assert sorted(clip for clips in examples for clip in clips) == list(range(len(DURATIONS_S)))
    written = [sum(n_tokens[clip] for clip in clips) for clips in examples]
    assert max(written) <= 443 and max(map(len, examples)) > 1
    unbounded = [e.clips for batch in plan_epoch(DURATIONS_S, settings, 0) for e in batch]
    assert max(sum(n_tokens[clip] for clip in clips) for clips in unbounded) > 443


def test_the_same_seed_and_epoch_give_the_same_plan():
    settings = config(join_probability=0.3, no_speech_probability=0.1)
    assert plan_epoch(DURATIONS_S, settings, 3) == plan_epoch(DURATIONS_S, settings, 3)


def test_another_epoch_or_seed_gives_another_plan():
    first = plan_epoch(DURATIONS_S, config(), 0)
    assert plan_epoch(DURATIONS_S, config(), 1) != first
    assert plan_epoch(DURATIONS_S, config(seed=1), 0) != first


def test_examples_of_a_batch_are_alike_in_length_and_batches_come_in_mixed_order():
    plan = plan_epoch(DURATIONS_S, config(batch_s=48), epoch=0)
    padded_s = sum(len(batch) * max(example.duration_s for example in batch) for batch in plan)
    assert padded_s < 1.1 * sum(DURATIONS_S)
    lengths_s = [batch[0].duration_s for batch in plan]
    assert lengths_s != sorted(lengths_s)


def test_joined_clips_fit_the_window_and_pauses_are_counted():
    joined = [
        example
        for batch in plan_epoch(DURATIONS_S, config(join_probability=1.0), epoch=0)
        for example in batch
        if len(example.clips) > 1
    ]
    assert joined
    for example in joined:
        assert sum(DURATIONS_S[clip] for clip in example.clips) < example.duration_s <= 14


def test_windows_without_speech_come_in_the_share_asked_for():
    plan = plan_epoch(DURATIONS_S, config(no_speech_probability=0.2), epoch=0)
    n_silent = sum(not example.clips for batch in plan for example in batch)
    assert 0.15 * len(DURATIONS_S) < n_silent < 0.25 * len(DURATIONS_S)
    assert not any(not example.clips for batch in plan_epoch(DURATIONS_S, config(), 0) for example in batch)


def test_clips_of_shards_are_mixed_only_with_those_of_a_few_shards_at_a_time():
    shards = [clip // 50 for clip in range(len(DURATIONS_S))]  # 26 of them
    plan = plan_epoch(DURATIONS_S, config(), 0, shards)
    heard = [clip for batch in plan for example in batch for clip in example.clips]
    assert sorted(heard) == list(range(len(DURATIONS_S)))
    seen = [frozenset(shards[clip] for clip in heard[start : start + 400]) for start in range(0, 1_300, 400)]
    assert [len(together) for together in seen] == [8, 8, 8, 2]
    assert not seen[0] & seen[1] and seen[0] != frozenset(range(8))  # in another order than on disk
    assert [shards[clip] for clip in heard[:400]] != sorted(shards[clip] for clip in heard[:400])
    assert plan_epoch(DURATIONS_S, config(), 0, shards) == plan
    assert plan_epoch(DURATIONS_S, config(), 1, shards) != plan


def test_a_few_shards_are_mixed_as_well_as_files_of_their_own():
    settings = config(join_probability=0.3)
    plan = plan_epoch(DURATIONS_S, settings, 0, [clip // 500 for clip in range(len(DURATIONS_S))])
    early = [clip for batch in plan[: len(plan) // 4] for example in batch for clip in example.clips]
    assert {clip // 500 for clip in early} == {0, 1, 2}


def test_files_of_their_own_among_shards_have_no_number():
    def clip(path, size_bytes=None):
        named = {"path": Path(path), "origin": "x:1", "text": "क", "language": None, "voice": None}
        return Clip(**named, start_s=0, duration_s=1, size_bytes=size_bytes)

    files = [clip(f"{number}.wav") for number in range(1_500)]
    assert shard_numbers(files) is None
    numbers = shard_numbers([clip("a.tar", 9), clip("a.tar", 9), clip("b.tar", 9), *files])
    assert numbers[:3] == [0, 0, 1] and set(numbers[3:]) == {None}


def test_files_of_their_own_are_spread_over_all_shards():
    shards = [None if clip >= 1_200 else clip // 30 for clip in range(len(DURATIONS_S))]  # 40 shards
    plan = plan_epoch(DURATIONS_S, config(), 0, shards, weights=[1.0] * 1_200 + [4.0] * 100)
    heard = heard_in(plan)
    assert sorted(heard) == sorted([*range(1_300), *list(range(1_200, 1_300)) * 3])
    for start in range(0, 1_600, 400):
        n_spread = sum(clip >= 1_200 for clip in heard[start : start + 400])
        assert 60 < n_spread < 140


def test_a_clip_is_heard_as_often_as_its_weight_says():
    weights = [3.0, 1.0, 0.2, 2.5] * 325
    settings = config(join_probability=0.3, no_speech_probability=0.1)
    epochs = [heard_in(plan_epoch(DURATIONS_S, settings, epoch, weights=weights)) for epoch in range(10)]
    assert {len(heard) for heard in epochs} <= set(range(2_177 - 2, 2_177 + 3))  # 325 * 6.7
    counts = np.sum([np.bincount(heard, minlength=1_300) for heard in epochs], axis=0)
    assert counts.tolist() == [30, 10, 2, 25] * 325
    assert heard_in(plan_epoch(DURATIONS_S, settings, 4, weights=weights)) == epochs[4]


def test_equal_weights_of_one_change_nothing():
    settings = config(join_probability=0.3)
    assert plan_epoch(DURATIONS_S, settings, 2, weights=[1.0] * 1_300) == plan_epoch(DURATIONS_S, settings, 2)


def test_a_shard_heard_three_times_is_passed_three_times_over_the_epoch():
    shards = [clip // 50 for clip in range(len(DURATIONS_S))]  # 26 of them
    weights = [3.0 if shard == 5 else 1.0 for shard in shards]
    plan = plan_epoch(DURATIONS_S, config(), 0, shards, weights=weights)
    assert sorted(heard_in(plan)) == sorted([*range(1_300), *list(range(250, 300)) * 2])


def test_clips_of_two_languages_are_never_joined():
    languages = ["mr", "hi", None, "mr"] * 325
    plan = plan_epoch(DURATIONS_S, config(join_probability=1.0), 0, languages=languages)
    joined = [example.clips for batch in plan for example in batch if len(example.clips) > 1]
    assert joined and all(len({languages[clip] for clip in clips}) == 1 for clips in joined)


def heard_in(plan):
    return [clip for batch in plan for example in batch for clip in example.clips]
