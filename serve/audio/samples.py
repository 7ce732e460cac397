"""Samples at 16 kHz, the form that every recording takes in serving and training, and resampling to it.

Blocks are resampled without seams, by torchaudio's filter, which training uses too. Knows no container and no
channels.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cached_property

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
"""Mono sound, (n_samples,) float32 within -1 to 1, at `SAMPLE_RATE`."""

SAMPLE_RATE = 16_000
"""Whisper's sample rate, in Hz."""

FRAMES_PER_S = 100
"""Frames per second of Whisper's spectrogram: one every 160 samples."""

LOUDEST = 32_768.0
"""Full scale of int16 values stored as float; nothing valid is louder."""

MAX_DENOMINATOR = 1_000  # of a resampling ratio: exact for usual rates, within a millionth for odd ones


def without_wild_values(samples: Samples) -> Samples:
    """Replace impossible values (NaN, infinity, beyond int16) by silence."""
    return np.where(np.abs(samples) <= LOUDEST, samples, np.float32(0))


class FullScale:
    """Scales a stream to within -1 to 1 by its peak so far: some float files hold int16 values."""

    def __init__(self) -> None:
        self._peak = 1.0

    def push(self, samples: Samples) -> Samples:
        """Return the next samples, of any shape, scaled."""
        if samples.size:
            self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        return samples / np.float32(self._peak) if self._peak > 1.0 else samples


class Resampler:
    """Resamples a stream to 16 kHz; blocks of any size give the same result as the whole."""

    def __init__(self, sample_rate: int) -> None:
        # A ratio of large numbers, as for a forged 44,099 Hz, would need a filter of gigabytes.
        ratio = Fraction(SAMPLE_RATE, sample_rate).limit_denominator(MAX_DENOMINATOR)
        self._step_in, self._step_out = ratio.denominator, ratio.numerator
        self._pending = np.zeros(0, dtype=np.float32)
        self._n_history = 0  # samples of _pending whose output was already returned

    @cached_property
    def _margin(self) -> int:
        """Input samples that influence an output sample on either side, as whole steps."""
        # torchaudio's default filter: 6 zero crossings, roll-off 0.99.
        half_width = math.ceil(6 * self._step_in / (min(self._step_in, self._step_out) * 0.99))
        return (half_width // self._step_in + 2) * self._step_in

    def push(self, samples: Samples) -> Samples:
        """Return the output (n_samples,) that is known after these samples."""
        if self._step_in == self._step_out:
            return samples
        self._pending = np.concatenate([self._pending, samples])
        ready = (len(self._pending) - self._n_history - self._margin) // self._step_in * self._step_in
        if ready <= 0:
            return np.zeros(0, dtype=np.float32)
        answer = self._resample(self._pending[: self._n_history + ready + self._margin], ready)
        keep_from = max(0, self._n_history + ready - self._margin)
        self._n_history += ready - keep_from
        self._pending = self._pending[keep_from:]
        return answer

    def flush(self) -> Samples:
        if self._step_in == self._step_out:
            return np.zeros(0, dtype=np.float32)
        remaining = len(self._pending) - self._n_history
        return self._resample(self._pending, remaining) if remaining else np.zeros(0, dtype=np.float32)

    def _resample(self, samples: Samples, n_wanted: int) -> Samples:
        """Resample, and return the output for the `n_wanted` samples after the history."""
        # Imported here: the import takes seconds, and a service may not need torch otherwise.
        import torch
        import torchaudio.functional

        resampled = torchaudio.functional.resample(
            torch.from_numpy(samples.copy()), self._step_in, self._step_out
        )
        first = self._n_history * self._step_out // self._step_in
        last = first + math.ceil(n_wanted * self._step_out / self._step_in)
        answer: Samples = resampled[first:last].numpy()
        return answer


def load_resampler() -> None:
    """Import the resampler's libraries before a request needs them."""
    import torchaudio.functional  # noqa: F401
