"""Samples and their rate: what every recording becomes, for serving and training alike.

Samples of any other rate are resampled in blocks that join without a seam. The filter is torchaudio's, which
training uses too. Knows no container and no channels.
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
"""Samples in a second (Hz): what Whisper reads."""

FRAMES_PER_S = 100
"""Frames of Whisper's spectrogram in a second: one every 160 samples."""

LOUDEST = 32_768.0
"""Full scale of int16 data stored as float; nothing honest is louder."""

MAX_DENOMINATOR = 1_000  # of a resampling ratio: exact for usual rates, within a millionth for odd ones


def without_wild_values(samples: Samples) -> Samples:
    """Return samples in which values that no recording holds (NaN, infinity, beyond int16) are silence."""
    return np.where(np.abs(samples) <= LOUDEST, samples, np.float32(0))


class FullScale:
    """Brings a stream to -1 to 1 by its highest peak so far: some floats hold the values of int16."""

    def __init__(self) -> None:
        self._peak = 1.0

    def push(self, samples: Samples) -> Samples:
        """Return the next samples, of any shape, scaled."""
        if samples.size:
            self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        return samples / np.float32(self._peak) if self._peak > 1.0 else samples


class Resampler:
    """Resamples a stream to 16 kHz; blocks of any size give the samples that the whole would give."""

    def __init__(self, sample_rate: int) -> None:
        # A ratio with large terms, as of a forged 44,099 Hz, would need a filter of gigabytes.
        ratio = Fraction(SAMPLE_RATE, sample_rate).limit_denominator(MAX_DENOMINATOR)
        self._step_in, self._step_out = ratio.denominator, ratio.numerator
        self._pending = np.zeros(0, dtype=np.float32)
        self._n_history = 0  # samples of _pending that were answered already

    @cached_property
    def _margin(self) -> int:
        """Input samples that influence an output sample on either side, in whole steps."""
        # torchaudio's default filter: 6 zero crossings, roll-off 0.99.
        half_width = math.ceil(6 * self._step_in / (min(self._step_in, self._step_out) * 0.99))
        return (half_width // self._step_in + 2) * self._step_in

    def push(self, samples: Samples) -> Samples:
        """Return the samples that can be told once these (n_samples,) have come."""
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
        """Return the last samples of the stream."""
        if self._step_in == self._step_out:
            return np.zeros(0, dtype=np.float32)
        remaining = len(self._pending) - self._n_history
        return self._resample(self._pending, remaining) if remaining else np.zeros(0, dtype=np.float32)

    def _resample(self, samples: Samples, n_wanted: int) -> Samples:
        """Resample, and keep the answer to the `n_wanted` samples after the history."""
        # Imported here: it takes seconds, and a service may need torch for nothing else.
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
    """Import what resampling needs, before somebody waits for it."""
    import torchaudio.functional  # noqa: F401
