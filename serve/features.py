"""Turn a window of samples into the log-mel picture that Whisper reads. Knows no model.

This is the definition of features for training and serving alike: `train` imports it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
LogMel = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
HOP_LENGTH = 160  # samples between frames: 10 ms
FRAMES_PER_S = SAMPLE_RATE // HOP_LENGTH
MAX_WINDOW_S = 30.0
MIN_WINDOW_S = 1.0
WINDOW_STEP_S = 0.1  # window lengths are multiples of this, so that windows of a batch often agree


def window_length_s(n_samples: int, margin_s: float) -> float:
    """Return the window for a stretch of speech: its length and a margin, in steps of 0.1 s, 1 to 30 s."""
    steps = math.ceil((n_samples / SAMPLE_RATE + margin_s) / WINDOW_STEP_S - 1e-6)
    return min(MAX_WINDOW_S, max(MIN_WINDOW_S, round(steps * WINDOW_STEP_S, 1)))


class FeatureExtractor:
    """Whisper's log-mel spectrogram, as `preprocessor_config.json` of the base model defines it."""

    def __init__(self, base_dir: Path) -> None:
        from transformers import WhisperFeatureExtractor

        self._extractor = WhisperFeatureExtractor.from_pretrained(str(base_dir))

    def log_mel(self, samples: Samples, window_s: float) -> LogMel:
        """Return (n_mels, n_frames) for samples (n_samples,), padded with silence to `window_s`.

        `n_frames` is `window_s * 100`. Samples that do not fit the window are a fault of the caller.
        """
        window_samples = round(window_s * FRAMES_PER_S) * HOP_LENGTH
        assert 0 < len(samples) <= window_samples, (len(samples), window_samples)
        padded = np.zeros(window_samples, np.float32)
        padded[: len(samples)] = samples
        features = self._extractor(padded, sampling_rate=SAMPLE_RATE, padding="do_not_pad", truncation=False)
        return np.asarray(features["input_features"][0], dtype=np.float32)
