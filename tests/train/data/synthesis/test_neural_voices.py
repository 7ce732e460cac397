"""The neural engines speak Marathi sentences; who is tested is never trained on, mixtures included."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from train.data.synthesis.kokoro import (
    HINDI_SPEAKERS,
    TEST_SPEAKERS,
    TRAIN_SPEAKERS,
    VALID_SPEAKERS,
    draw_blend,
    parts_of,
)
from train.data.synthesis.voices import PIPER_VOICES, Delivery, Voice, kokoro_voice, speak

SENTENCE = "मला चहा हवा आहे"
PLAIN = Delivery(speed=1.0, pitch=0.0, liveliness=0.5)
engines = pytest.mark.parametrize(
    "voice", [kokoro_voice("hf_alpha"), PIPER_VOICES[2]], ids=lambda v: v.engine
)


@cache
def plain(voice: Voice) -> np.ndarray:
    """Return the sentence as it is usually spoken, which takes seconds."""
    samples = speak(SENTENCE, voice, PLAIN)
    assert samples is not None
    return samples


def test_every_speaker_has_one_purpose():
    everyone = [*TRAIN_SPEAKERS, *VALID_SPEAKERS, *TEST_SPEAKERS]
    assert len(everyone) == len(set(everyone)) == 54
    assert set(HINDI_SPEAKERS) < set(TRAIN_SPEAKERS)


def test_drawn_mixtures_hold_training_speakers_alone_in_parts_that_make_a_whole():
    drawn = [draw_blend(random.Random(seed)) for seed in range(2000)]
    parts = [parts_of(blend) for blend in drawn]
    assert {speaker for blend in parts for speaker, _ in blend} == set(TRAIN_SPEAKERS)
    for blend in parts:
        assert sum(weight for _, weight in blend) == pytest.approx(1)
        assert all(0.2 <= weight <= 1 for _, weight in blend) and len({s for s, _ in blend}) == len(blend)
    assert 0.4 < sum(len(blend) == 2 for blend in parts) / len(parts) < 0.6
    hindi = sum(any(speaker in HINDI_SPEAKERS for speaker, _ in blend) for blend in parts)
    assert 0.2 < hindi / len(parts) < 0.4


@engines
def test_a_sentence_is_spoken_at_the_rate_level_and_length_of_a_clip(voice):
    samples = plain(voice)
    assert samples.dtype == np.float32 and np.abs(samples).max() == pytest.approx(0.5, rel=1e-3)
    assert 0.7 < len(samples) / SAMPLE_RATE < 4.0
    assert voice.kind == "neural"


@engines
def test_a_faster_delivery_is_shorter(voice):
    fast = Delivery(speed=1.3, pitch=0.0, liveliness=0.5)
    # Piper draws the length of each sound, so a single sentence varies by a tenth.
    quick = sum(len(speak(SENTENCE, voice, fast)) for _ in range(4))
    usual = sum(len(speak(SENTENCE, voice, PLAIN)) for _ in range(4))
    assert quick < 0.9 * usual


def test_a_mixture_is_a_voice_of_its_own():
    alone, mixed = (plain(kokoro_voice(blend)) for blend in ("hf_alpha", "hf_alpha*0.50+am_adam*0.50"))
    n = min(len(alone), len(mixed))
    assert np.corrcoef(alone[:n], mixed[:n])[0, 1] < 0.9


def test_kokoro_says_the_same_thing_the_same_way():
    voice = kokoro_voice("hm_omega")
    assert np.array_equal(speak("नमस्कार", voice, PLAIN), speak("नमस्कार", voice, PLAIN))


@engines
def test_what_has_no_sound_gives_nothing(voice):
    assert speak(" ", voice, PLAIN) is None
