"""Changes to audio, by what they do to power, bands and lengths."""

from __future__ import annotations

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from train.config import AugmentConfig
from train.examples.augment import (
    CODECS,
    Augmenter,
    add_noise,
    coloured_noise,
    equalise,
    lossy_codec,
    overdrive,
    reverberate,
    telephone_band,
)
from train.examples.rooms import diffuse_room

ALWAYS = AugmentConfig(**dict.fromkeys(AugmentConfig().probabilities, 1.0))


def tone(frequency_hz, seconds=1.0, level=0.3):
    time_s = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def power(samples):
    return float(np.mean(samples.astype(np.float64) ** 2))


def power_between(samples, low_hz, high_hz):
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(spectrum[(frequencies >= low_hz) & (frequencies < high_hz)].sum())


@pytest.mark.parametrize("snr_db", [0.0, 8.0, 30.0])
def test_noise_is_added_at_the_ratio_asked_for(snr_db):
    speech, noise = tone(440), coloured_noise(SAMPLE_RATE, 0.5, np.random.default_rng(0))
    added = add_noise(speech, noise, snr_db) - speech
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(snr_db, abs=0.1)


def test_brown_noise_is_deeper_than_pink_and_pink_than_white():
    shares = []
    for slope in (0.0, 0.5, 1.0):
        noise = coloured_noise(4 * SAMPLE_RATE, slope, np.random.default_rng(1))
        shares.append(power_between(noise, 0, 500) / power_between(noise, 0, 8_000))
    assert shares == sorted(shares) and shares[0] < 0.1 < 0.9 < shares[2]


@pytest.mark.parametrize("mu_law", [False, True])
def test_a_telephone_keeps_the_voice_band_and_loses_five_kilohertz(mu_law):
    voice, hiss = tone(1_000), tone(5_000)
    heard = telephone_band(voice + hiss, mu_law=mu_law)
    assert len(heard) == len(voice)
    assert power_between(heard, 4_500, 5_500) < 1e-3 * power_between(hiss, 4_500, 5_500)
    assert power_between(heard, 950, 1_050) > 0.5 * power_between(voice, 950, 1_050)


def test_a_telephone_weakens_what_lies_below_its_band():
    assert power(telephone_band(tone(60), mu_law=False)) < 0.05 * power(tone(60))


def test_an_echo_rings_on_after_the_sound_and_keeps_its_level():
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[-SAMPLE_RATE // 10] = 0.5
    wet = reverberate(click, diffuse_room(0.6, np.random.default_rng(0)))
    assert len(wet) == SAMPLE_RATE + int(0.6 * SAMPLE_RATE) // 2
    assert np.abs(wet).max() == pytest.approx(0.5, rel=1e-3)
    tail = wet[SAMPLE_RATE:]
    assert power(tail[: len(tail) // 4]) > 4 * power(tail[-len(tail) // 4 :]) > 0


def test_nothing_changes_where_no_probability_is_given():
    augmenter = Augmenter(AugmentConfig(), np.random.default_rng(0))
    speech, log_mel = tone(300), np.random.default_rng(0).random((80, 100)).astype(np.float32)
    changed, tempo = augmenter.waveform(speech)
    assert np.array_equal(changed, speech) and tempo == 1
    assert np.array_equal(augmenter.log_mel(log_mel, 80), log_mel)


def test_the_same_seed_makes_the_same_changes():
    changed = [Augmenter(ALWAYS, np.random.default_rng(5)).waveform(tone(300))[0] for _ in range(2)]
    assert np.array_equal(*changed)
    assert not np.array_equal(changed[0], Augmenter(ALWAYS, np.random.default_rng(6)).waveform(tone(300))[0])


def test_changed_samples_stay_finite_and_within_full_scale():
    for seed in range(20):
        augmenter = Augmenter(ALWAYS, np.random.default_rng(seed))
        for level in (0.9, 0.01):  # the second clip may get the first one as babble
            samples, _ = augmenter.waveform(tone(300, 0.6, level))
            assert samples.dtype == np.float32
            assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_masks_hide_a_band_and_a_stretch_of_speech_no_longer_than_a_fifth_of_a_second():
    original = np.random.default_rng(0).random((80, 300)).astype(np.float32) + 1
    for seed in range(30):
        masked = Augmenter(ALWAYS, np.random.default_rng(seed)).log_mel(original, 250)
        hidden = masked == original.min()
        assert masked.shape == original.shape and np.array_equal(masked[~hidden], original[~hidden])
        assert hidden.all(axis=1).sum() < 12 and hidden.all(axis=0).sum() < 20
        assert not hidden[:, 250:].all(axis=0).any()


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_codec_loses_something_and_keeps_the_voice(codec):
    voice = tone(440, 2.0) * (1 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE))
    heard = lossy_codec(voice.astype(np.float32), codec)
    assert abs(len(heard) - len(voice)) < 0.2 * SAMPLE_RATE
    assert not np.array_equal(heard[: len(voice)], voice[: len(heard)])
    assert power_between(heard, 400, 480) > 0.5 * power_between(voice, 400, 480)


def test_the_tempo_tells_where_a_sound_has_moved():
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[SAMPLE_RATE : SAMPLE_RATE + 400] = 0.5
    for seed in range(6):
        changing = AugmentConfig(speed=1, speed_range=(0.7, 0.9))
        changed, tempo = Augmenter(changing, np.random.default_rng(seed)).waveform(click)
        heard_at_s = int(np.argmax(np.abs(changed) > 0.2)) / SAMPLE_RATE
        assert heard_at_s == pytest.approx(1 / tempo, abs=0.01) and 0.68 <= tempo <= 0.92


def test_an_equaliser_raises_and_lowers_what_it_is_told_to():
    low, middle, high = tone(150), tone(1_000), tone(5_000)
    heard = equalise(low + middle + high, [150, 1_000, 5_000], [-40, 0, 6])
    assert len(heard) == len(low)
    assert power_between(heard, 100, 200) < 0.01 * power_between(low, 100, 200)
    assert power_between(heard, 950, 1_050) == pytest.approx(power_between(middle, 950, 1_050), rel=0.1)
    assert power_between(heard, 4_900, 5_100) == pytest.approx(4 * power_between(high, 4_900, 5_100), rel=0.2)


def test_a_clip_that_is_overdriven_loses_its_peaks_and_keeps_its_level():
    voice = tone(300) * np.linspace(0.1, 1, SAMPLE_RATE, dtype=np.float32)
    heard = overdrive(voice, 0.1)
    peak = np.abs(voice).max()
    assert np.abs(heard).max() == pytest.approx(peak)
    assert np.mean(np.abs(heard) > 0.999 * peak) == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(overdrive(np.zeros(100, np.float32), 0.1), np.zeros(100))


def test_babble_is_made_of_the_clips_before_and_never_of_the_clip_itself():
    augmenter = Augmenter(AugmentConfig(babble=1, snr_db=(5, 5)), np.random.default_rng(0))
    first, _ = augmenter.waveform(tone(300))
    assert np.array_equal(first, tone(300))
    second, _ = augmenter.waveform(tone(1_000))
    talked = power_between(second, 250, 350) / power_between(second, 950, 1_050)
    assert 10 * np.log10(1 / talked) == pytest.approx(5, abs=0.5)
