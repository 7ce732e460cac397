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
