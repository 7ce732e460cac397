"""Real synthesisers speak at the pace, pitch and rate asked for; one that fails takes no other along."""

from __future__ import annotations

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from train.data.synthesis.voices import TEST_VOICES, TRAIN_VOICES, Delivery, Voice, speak
from train.errors import DataError

SENTENCE = "आज सकाळी खूप पाऊस पडला"
PLAIN = Delivery(speed=1.0, pitch=0.0, liveliness=0.5)
ESPEAK = Voice(name="espeak-f1", engine="espeak", variant="f1")
FESTIVAL = Voice(name="nsk-1.00", engine="festival")
engines = pytest.mark.parametrize("voice", [ESPEAK, FESTIVAL], ids=lambda voice: voice.engine)


def pitch_hz(samples):
    """Return the median of the strongest period between 60 and 400 Hz over the loud frames."""
    periods = []
    for start in range(0, len(samples) - 800, 400):
        frame = samples[start : start + 800] - samples[start : start + 800].mean()
        if np.sqrt(np.mean(frame**2)) > 0.05:
            correlation = np.correlate(frame, frame, "full")[799:]
            periods.append(40 + int(np.argmax(correlation[40:267])))
    return SAMPLE_RATE / np.median(periods)


def test_no_voice_is_both_trained_and_tested():
    assert not {(v.engine, v.variant, v.formant_shift) for v in TRAIN_VOICES} & {
        (v.engine, v.variant, v.formant_shift) for v in TEST_VOICES
    }
    names = [voice.name for voice in [*TRAIN_VOICES, *TEST_VOICES]]
    assert len(names) == len(set(names))


@engines
def test_speech_is_of_the_right_rate_and_level_without_silent_ends(voice):
    samples = speak(SENTENCE, voice, PLAIN)
    assert samples.dtype == np.float32 and np.abs(samples).max() == pytest.approx(0.5, rel=1e-3)
    assert 1.0 < len(samples) / SAMPLE_RATE < 4.0
    for end in (samples[: SAMPLE_RATE // 10], samples[-SAMPLE_RATE // 10 :]):
        assert np.abs(end).max() > 0.005


@engines
def test_the_same_delivery_gives_the_same_samples(voice):
    assert np.array_equal(speak(SENTENCE, voice, PLAIN), speak(SENTENCE, voice, PLAIN))


@engines
def test_speed_and_pitch_are_obeyed(voice):
    fast = Delivery(speed=1.25, pitch=0.0, liveliness=0.5)
    assert len(speak(SENTENCE, voice, fast)) < 0.9 * len(speak(SENTENCE, voice, PLAIN))
    low, high = (speak(SENTENCE, voice, Delivery(speed=1.0, pitch=p, liveliness=0.1)) for p in (-1, 1))
    assert pitch_hz(high) > 1.15 * pitch_hz(low)


def test_a_shifted_voice_keeps_its_pace_and_moves_its_spectrum():
    def centre_hz(samples):
        spectrum = np.abs(np.fft.rfft(samples)) ** 2
        return float(np.sum(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) * spectrum) / np.sum(spectrum))

    deep = speak(SENTENCE, Voice(name="deep", engine="festival", formant_shift=0.84), PLAIN)
    bright = speak(SENTENCE, Voice(name="bright", engine="festival", formant_shift=1.18), PLAIN)
    assert len(deep) == pytest.approx(len(bright), rel=0.15)
    assert centre_hz(bright) > 1.1 * centre_hz(deep)


@engines
def test_what_cannot_be_spoken_gives_nothing(voice):
    assert speak(" ", voice, PLAIN) is None


@engines
def test_a_missing_synthesiser_is_named(voice, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{voice.engine}.* is not installed: run `make system-deps`"):
        speak(SENTENCE, voice, PLAIN)
