"""Compute Whisper's log-mel spectrogram of a window of samples. Knows no model.

Serving and training share this definition. It equals transformers' `WhisperFeatureExtractor` up to rounding,
but without that library, which a service with another runtime need not import.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft

from serve.audio.samples import FRAMES_PER_S, SAMPLE_RATE, Samples
from serve.errors import BaseModelError

LogMel = npt.NDArray[np.float32]
"""Log-mel spectrogram of a window, (n_mels, n_frames); 100 frames a second, an even number, at most 3,000."""

HOP_LENGTH = SAMPLE_RATE // FRAMES_PER_S  # samples between frames: 10 ms
N_FFT = 400  # samples per frame: 25 ms
MAX_WINDOW_S = 30.0
MIN_WINDOW_S = 1.0
WINDOW_STEP_S = 1.0
"""Windows have multiples of this length. Padding changes the text, so only windows of equal length share a
batch: a text never depends on other requests."""

_SILENCE_LOG10 = -10.0
"""log10 of the smallest power, 1e-10."""

_RANGE_DECADES = 8.0
"""Whisper clamps a window to this many decades below its peak, then scales by (x + 4) / 4."""


def window_length_s(n_samples: int, margin_s: float) -> float:
    """Return the window length for speech: its own plus about the margin, in whole seconds, 1 to 30."""
    least_s = n_samples / SAMPLE_RATE + max(0.0, margin_s - WINDOW_STEP_S / 2)
    return min(MAX_WINDOW_S, max(MIN_WINDOW_S, WINDOW_STEP_S * math.ceil(least_s / WINDOW_STEP_S - 1e-6)))


class FeatureExtractor:
    """Whisper's log-mel spectrogram, as `preprocessor_config.json` of the base model defines it."""

    def __init__(self, base_dir: Path) -> None:
        """Read the number of mel bands.

        Raises:
            BaseModelError: The file cannot be read, or its features are not Whisper's.
        """
        path = base_dir / "preprocessor_config.json"
        try:
            config = json.loads(path.read_bytes())
            n_mels = int(config.get("feature_size", 80))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BaseModelError(f"{path} cannot be read: {error}") from error
        for name, expected in (("sampling_rate", SAMPLE_RATE), ("hop_length", HOP_LENGTH), ("n_fft", N_FFT)):
            if config.get(name, expected) != expected:
                raise BaseModelError(f"{path}: {name} is {config[name]}; every Whisper has {expected}")
        self._mel_filters = mel_filters(n_mels)
        self._taper = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic

    def log_mel(self, samples: Samples, window_s: float) -> LogMel:
        """Return (n_mels, n_frames) for samples (n_samples,), padded with silence to `window_s`.

        `n_frames` is `window_s * 100`. The samples must fit the window.
        """
        n_frames = round(window_s * FRAMES_PER_S)
        assert 0 < len(samples) <= n_frames * HOP_LENGTH, (len(samples), n_frames)
        # Frames behind the samples see only zeros, so they are filled in, not computed.
        n_heard = min(n_frames, 1 + (len(samples) + N_FFT // 2) // HOP_LENGTH)
        frames = _frames(samples, n_heard, n_frames * HOP_LENGTH) * self._taper  # (n_heard, N_FFT)
        spectrum = scipy.fft.rfft(frames, overwrite_x=True)  # (n_heard, N_FFT / 2 + 1) complex64
        power = spectrum.real**2 + spectrum.imag**2
        heard = np.log10(np.maximum(power @ self._mel_filters, np.float32(10**_SILENCE_LOG10)))
        floor = max(_SILENCE_LOG10, float(heard.max()) - _RANGE_DECADES)
        log_mel = np.full((self._mel_filters.shape[1], n_frames), (floor + 4) / 4, np.float32)
        log_mel[:, :n_heard] = (np.maximum(heard, np.float32(floor)).T + np.float32(4)) / np.float32(4)
        return log_mel


def pad_with_silence(log_mel: LogMel, n_frames: int) -> LogMel:
    """Pad a window to `n_frames` with the value of silence; see `silence_level`."""
    n_missing = n_frames - log_mel.shape[1]
    if n_missing == 0:
        return log_mel
    return np.pad(log_mel, ((0, 0), (0, n_missing)), constant_values=silence_level(log_mel))


def silence_level(log_mel: LogMel) -> float:
    """Return the value of zero samples in this window.

    Whisper clamps each window to 8 decades below its peak and scales by (x + 4) / 4, so silence lies exactly
    2 below the peak. In a window of zeros it lies at -1.5.
    """
    return max(float(log_mel.max()) - _RANGE_DECADES / 4, (_SILENCE_LOG10 + 4) / 4)


def mel_filters(n_mels: int) -> npt.NDArray[np.float32]:
    """Return Slaney's triangular filters from 0 to 8 kHz, each of unit area, (N_FFT / 2 + 1, n_mels)."""
    bins_hz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    widths_hz = np.diff(edges_hz)
    distances_hz = edges_hz - bins_hz[:, None]
    rising = -distances_hz[:, :-2] / widths_hz[:-1]
    falling = distances_hz[:, 2:] / widths_hz[1:]
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges_hz[2:] - edges_hz[:-2])
    return filters.astype(np.float32)


_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
"""Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above."""


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _LOG_FROM_HZ:
        return frequency_hz / _LINEAR_HZ_PER_MEL
    return _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL + math.log(frequency_hz / _LOG_FROM_HZ) / _LOG_STEP


def _mel_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    log_from = _LOG_FROM_HZ / _LINEAR_HZ_PER_MEL
    above = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - log_from))
    return np.where(mels < log_from, mels * _LINEAR_HZ_PER_MEL, above)


def _frames(samples: Samples, n_frames: int, window_samples: int) -> Samples:
    """Return overlapping views of the window's first frames, (n_frames, N_FFT).

    The window is mirrored at its start and, where the samples reach that far, at its end.
    """
    half = N_FFT // 2
    padded = np.zeros((n_frames - 1) * HOP_LENGTH + N_FFT, np.float32)
    n_taken = min(len(samples), len(padded) - half)
    padded[half : half + n_taken] = samples[:n_taken]
    padded[:half] = padded[2 * half : half : -1]
    if (n_behind := len(padded) - half - window_samples) > 0:
        padded[-n_behind:] = padded[-n_behind - 2 : -2 * n_behind - 2 : -1]
    return np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
