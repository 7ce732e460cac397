"""Samples and their rate: what every recording becomes, for serving and training alike."""

from __future__ import annotations

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
