"""Audio without speech, as training hears it."""

from __future__ import annotations

import numpy as np

from serve.audio.samples import SAMPLE_RATE
from train.examples.no_speech import melody, no_speech


def test_audio_without_speech_is_quiet_or_loud_but_never_clips():
    for seed in range(60):
        samples = no_speech(SAMPLE_RATE, np.random.default_rng(seed))
        assert samples.shape == (SAMPLE_RATE,) and samples.dtype == np.float32
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_every_kind_occurs_and_the_seed_fixes_which():
    made = [no_speech(2 * SAMPLE_RATE, np.random.default_rng(seed)) for seed in range(60)]
    assert any(not samples.any() for samples in made), "silence"
    assert len({samples.tobytes() for samples in made if samples.any()}) > 30
    assert np.array_equal(made[7], no_speech(2 * SAMPLE_RATE, np.random.default_rng(7)))


def test_most_melodies_have_notes_that_begin_suddenly():
    sudden = 0
    for seed in range(20):
        samples = melody(4 * SAMPLE_RATE, np.random.default_rng(seed))
        power = np.square(samples.reshape(-1, 320)).mean(axis=1)  # each 20 ms
        assert np.abs(samples).max() == np.float32(1)
        sudden += (power[1:] > 2 * power[:-1]).sum() >= 3
    assert sudden >= 12
