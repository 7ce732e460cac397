"""Place decoded sound on the container's clock, with silence before it and in its gaps.

A container timestamps its packets. A track may start after the video, an edit list may shift it, packets may
be lost or never recorded. Players wait meanwhile, and a transcript's times must agree with theirs. The
decoder gives samples without gaps, and a clock reading wherever the clock no longer agrees with the sample
count. Knows no container and no decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from serve.audio.recording import ClockReport
from serve.audio.samples import Samples

MAX_SILENCE_S = 3_600.0
"""Longest silence inserted in one place. A larger jump means a forged or broken clock, or one that did not
start with the recording: it is ignored and reported."""

MIN_GAP_S = 0.1
"""A smaller difference is jitter or encoder delay, and ignored."""

MAX_BACK_S = 1.0
"""A clock that jumps back further has restarted, as where recordings were joined. With a smaller jump it is
merely less exact than the sample count, and later sound is not moved until a gap makes up for it."""

MAX_CUT_S = 10.0
"""Most sound removed before the clock's zero, which no player plays."""

SILENCE_BLOCK_S = 1.0


@dataclass(frozen=True)
class Reading:
    """The clock at one place of the decoded sound."""

    at: int
    """Samples decoded before this place."""
    ahead: float
    """Samples by which the clock is ahead of the sample count; negative if it is behind."""


@dataclass
class Clock:
    """The clock of one audio track."""

    sample_rate: int
    """Hz."""
    start_s: float = 0.0
    """Clock time at the start of the recording, in seconds; transport streams may start anywhere."""
    readings: deque[Reading] = field(default_factory=deque)
    """In order; before the decoder yields a block, it adds all readings within the block."""

    def __post_init__(self) -> None:
        self._n_decoded = 0
        self._n_put = 0  # silence inserted minus sound removed, in samples
        self._shift = self.start_s * self.sample_rate  # clock offset, in samples
        self._n_to_cut = 0
        self._starts_at = 0
        self._gaps = 0
        self._leap = 0.0

    @property
    def report(self) -> ClockReport | None:
        """Corrections so far; None if there were none."""
        if not (self._starts_at or self._gaps or self._leap):
            return None
        return ClockReport(
            starts_at_s=self._starts_at / self.sample_rate,
            gaps_s=self._gaps / self.sample_rate,
            leap_s=self._leap / self.sample_rate,
        )

    def place(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        """Yield blocks (n_samples, n_channels), with silence inserted where the clock is ahead."""
        for block in blocks:
            first = self._cut_from(block, 0, self._n_to_cut)
            while self.readings and self.readings[0].at < self._n_decoded + len(block):
                reading = self.readings.popleft()
                at = max(first, reading.at - self._n_decoded)
                if at > first:
                    yield block[first:at]
                n_silent = self._silence_at(reading)
                yield from self._silence(n_silent, block.shape[1])
                first = self._cut_from(block, at, max(0, -n_silent))
            if first < len(block):
                yield block[first:]
            self._n_decoded += len(block)

    def _cut_from(self, block: Samples, first: int, n_samples: int) -> int:
        """Skip samples from index `first` on; return the index after them."""
        goes_on = min(len(block), first + n_samples)
        self._n_to_cut = n_samples - (goes_on - first)
        return goes_on

    def _silence_at(self, reading: Reading) -> int:
        """Return how many samples of silence to insert here; negative to remove as much sound."""
        ahead = round(reading.ahead - self._shift - self._n_put)
        is_start = reading.at == 0
        if ahead > MAX_SILENCE_S * self.sample_rate:
            self._leap = max(self._leap, float(ahead))
            self._shift += ahead
            return 0
        if is_start and 0 > ahead >= -MAX_CUT_S * self.sample_rate:
            self._n_put += ahead
            return ahead
        if ahead < -MAX_BACK_S * self.sample_rate:
            self._shift += ahead
            return 0
        if ahead < MIN_GAP_S * self.sample_rate:
            return 0
        self._n_put += ahead
        if is_start:
            self._starts_at = ahead
        else:
            self._gaps += ahead
        return ahead

    def _silence(self, n_samples: int, n_channels: int) -> Iterator[Samples]:
        most = max(1, int(SILENCE_BLOCK_S * self.sample_rate))
        for first in range(0, n_samples, most):
            yield np.zeros((min(most, n_samples - first), n_channels), dtype=np.float32)
