"""Changes of whose voice it is, by what they do to pitch, formants and length."""

from __future__ import annotations

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from train.examples.timbre import EXCITATIONS, change_speed, change_voice, vocode


def tone(frequency_hz, seconds=1.0, level=0.3):
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def vowel(pitch_hz=125.0, formant_hz=1_000.0, seconds=1.0):
    """Return harmonics of a pitch under one broad hill."""
    harmonics = np.arange(pitch_hz, 7_000, pitch_hz)
    weights = np.exp(-(((harmonics - formant_hz) / 400) ** 2)) + 0.01
    voice = sum(w * tone(hz, seconds) for w, hz in zip(weights, harmonics, strict=True))
    return (0.3 * voice / np.abs(voice).max()).astype(np.float32)


def spectrum(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2


def pitch_of(samples):
    """Return the pitch in Hz by the strongest echo of the wave in itself."""
    echo = np.fft.irfft(np.abs(np.fft.rfft(samples, 2 * len(samples))) ** 2)
    shortest, longest = SAMPLE_RATE // 400, SAMPLE_RATE // 60
    return SAMPLE_RATE / (shortest + int(np.argmax(echo[shortest:longest])))


def middle_of(samples):
    """Return the mean frequency in Hz, weighted by power."""
    power = spectrum(samples)
    return float(np.sum(np.arange(len(power)) * power) / np.sum(power) * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("factor", [0.88, 1.12])
def test_faster_speech_is_shorter_and_higher(factor):
    changed = change_speed(tone(1_000), factor)
    assert len(changed) == pytest.approx(SAMPLE_RATE / factor, rel=0.01)
    peak_hz = np.argmax(np.abs(np.fft.rfft(changed))) * SAMPLE_RATE / len(changed)
    assert peak_hz == pytest.approx(1_000 * factor, rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.24])
def test_pitch_moves_alone(factor):
    voice = vowel()
    changed = change_voice(voice, factor, 1.0)
    assert len(changed) == len(voice)
    assert pitch_of(changed) == pytest.approx(125 * factor, rel=0.03)
    assert middle_of(changed) == pytest.approx(middle_of(voice), rel=0.12)


@pytest.mark.parametrize("factor", [0.88, 1.16])
def test_formants_move_alone(factor):
    voice = vowel()
    changed = change_voice(voice, 1.0, factor)
    assert len(changed) == len(voice)
    assert pitch_of(changed) == pytest.approx(125, rel=0.02)
    assert middle_of(changed) == pytest.approx(middle_of(voice) * factor, rel=0.06)


def test_both_move_together_where_both_are_asked_to():
    changed = change_voice(vowel(), 1.2, 1.2)
    assert pitch_of(changed) == pytest.approx(150, rel=0.03)
    assert middle_of(changed) == pytest.approx(1.2 * middle_of(vowel()), rel=0.06)


@pytest.mark.parametrize("excitation", EXCITATIONS)
def test_a_vocoder_keeps_length_loudness_and_where_the_sound_lies(excitation):
    voice = vowel()
    spoken = vocode(voice, 40, excitation, 1.0, np.random.default_rng(0))
    assert len(spoken) == len(voice) and spoken.dtype == np.float32
    assert np.sqrt(np.mean(spoken**2)) == pytest.approx(np.sqrt(np.mean(voice**2)), rel=0.01)
    assert middle_of(spoken) == pytest.approx(middle_of(voice), rel=0.2)


def test_a_whisper_has_no_pitch_and_half_a_vocoder_is_half_the_voice():
    voice, rng = vowel(), np.random.default_rng(0)
    whispered = vocode(voice, 24, "noise", 1.0, rng)
    between = (np.arange(4, 40) + 0.5) * 125  # Hz: where a voice has nothing
    power, own = spectrum(whispered), spectrum(voice)
    places = np.round(between).astype(int)
    assert power[places].sum() > 100 * own[places].sum()
    assert np.corrcoef(vocode(voice, 24, "noise", 0.3, rng), voice)[0, 1] > 0.8


@pytest.mark.parametrize("samples", [np.zeros(4_000, np.float32), tone(300, 0.005)])
def test_silence_and_very_short_clips_stay_what_they_are(samples):
    rng = np.random.default_rng(0)
    for changed in (change_voice(samples, 1.2, 0.9), vocode(samples, 40, "buzz", 1.0, rng)):
        assert len(changed) == len(samples) and np.isfinite(changed).all() and np.abs(changed).max() < 1.5
