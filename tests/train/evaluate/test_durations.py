"""Error rates by the length of the clip."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluate.durations import wer_by_duration

RIGHT, WRONG = (4, 0, 0, 0), (0, 4, 0, 0)  # hits, substitutions, deletions, insertions


def test_every_clip_is_in_one_group_and_shorter_groups_come_first():
    found = wer_by_duration([1.0, 12.0, 1.5, 45.0], np.array([RIGHT, WRONG, WRONG, RIGHT]))
    assert [(each.label, each.utterances) for each in found] == [
        ("0–2 s", 2),
        ("10–15 s", 1),
        ("over 30 s", 1),
    ]
    assert [each.wer for each in found] == pytest.approx([0.5, 1.0, 0.0])


def test_a_clip_as_long_as_an_edge_is_in_the_longer_group():
    assert wer_by_duration([2.0], np.array([RIGHT]))[0].label == "2–4 s"


def test_the_interval_holds_the_rate_and_follows_the_seed():
    words = np.array([(97 - n, n, 0, n % 3) for n in range(40)])
    (first,), (second,), (other,) = (wer_by_duration([3.0] * 40, words, seed=seed) for seed in (1, 1, 2))
    assert first.wer_low < first.wer < first.wer_high
    assert first == second != other
