"""Windows and log-mel pictures, against the library that defines them."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from serve.audio.features import FeatureExtractor, pad_with_silence, window_length_s
from serve.audio.samples import SAMPLE_RATE
from serve.errors import BaseModelError


@pytest.fixture(scope="module")
def features(tiny_base_dir) -> FeatureExtractor:
    return FeatureExtractor(tiny_base_dir)


@pytest.mark.parametrize(
    ("speech_s", "margin_s", "window_s"),
    [
        (3.0, 0.9, 4.0),
        (3.6, 0.9, 4.0),
        (3.61, 0.9, 5.0),
        (0.2, 0.3, 1.0),
        (30.0, 0.9, 30.0),
        (29.5, 0.2, 30.0),
        (2.0, 0.0, 2.0),
        (2.01, 0.0, 3.0),
    ],
)
def test_a_window_holds_the_speech_and_about_its_margin_in_whole_seconds(speech_s, margin_s, window_s):
    assert window_length_s(round(speech_s * SAMPLE_RATE), margin_s) == window_s


def test_a_whole_window_is_what_transformers_makes_of_it(features, speech):
    reference = WhisperFeatureExtractor()(speech, sampling_rate=SAMPLE_RATE)["input_features"][0]
    log_mel = features.log_mel(speech, 30.0)
    assert log_mel.shape == (80, 3000) and log_mel.dtype == np.float32
    np.testing.assert_allclose(log_mel, reference, atol=1e-4)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize(
    ("n_samples", "window_s"),
    [(1, 1.0), (159, 1.0), (15_801, 1.0), (16_000, 1.0), (16_000, 2.0), (75_000, 12.3), (480_000, 30.0)],
)
@pytest.mark.parametrize("loudness", [0.0, 1e-6, 0.3])
def test_every_window_is_what_transformers_makes_of_it(tmp_path, n_mels, n_samples, window_s, loudness):
    reference = WhisperFeatureExtractor(feature_size=n_mels)
    reference.save_pretrained(tmp_path)
    samples = (loudness * np.random.default_rng(0).normal(size=n_samples)).astype(np.float32)
    padded = np.zeros(round(window_s * SAMPLE_RATE), np.float32)
    padded[:n_samples] = samples
    expected = reference(padded, sampling_rate=SAMPLE_RATE, padding="do_not_pad", truncation=False)
    log_mel = FeatureExtractor(tmp_path).log_mel(samples, window_s)
    assert log_mel.dtype == np.float32
    np.testing.assert_allclose(log_mel, expected["input_features"][0], atol=1e-4)


def test_features_that_are_not_whispers_are_refused(tmp_path):
    WhisperFeatureExtractor(hop_length=80).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="hop_length is 80"):
        FeatureExtractor(tmp_path)
    with pytest.raises(BaseModelError, match=r"preprocessor_config\.json cannot be read"):
        FeatureExtractor(tmp_path / "absent")


@pytest.mark.parametrize("window_s", [5.0, 6.3, 12.1])
def test_a_shorter_window_begins_like_a_whole_one(features, speech, window_s):
    n_frames = round(window_s * 100)
    log_mel = features.log_mel(speech, window_s)
    assert log_mel.shape == (80, n_frames)
    # Behind the speech there is silence in both; only the frames that see the window's very end may differ.
    np.testing.assert_allclose(log_mel[:, :-3], features.log_mel(speech, 30.0)[:, : n_frames - 3], atol=1e-3)


def test_padding_a_window_equals_a_longer_window(features):
    samples = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    padded = pad_with_silence(features.log_mel(samples, 2.0), 400)
    np.testing.assert_allclose(padded, features.log_mel(samples, 4.0), atol=1e-5)


def test_padding_silence_gives_silence(features):
    silence = np.zeros(16_000, np.float32)
    padded = pad_with_silence(features.log_mel(silence, 2.0), 400)
    np.testing.assert_allclose(padded, features.log_mel(silence, 4.0), atol=1e-5)
