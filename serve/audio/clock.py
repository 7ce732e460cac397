"""Sound as it was stored -> sound where the container's clock puts it, with silence before and between.

A container stamps its packets. A track may begin after the pictures, an edit list may move it, packets may be
lost or never recorded: players wait meanwhile, and times of a transcript must agree with theirs. The decoder
gives samples without a gap, and a reading of the clock wherever it no longer agrees with their count.
Knows no container and no decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from serve.audio.recording import ClockReport
from serve.audio.samples import Samples

MAX_SILENCE_S = 3_600.0
"""Longest silence put in at one place. A longer leap is a forged or broken clock, or one that did not begin
with the recording: it is passed over, and the report says so."""

MIN_GAP_S = 0.1
"""Shorter disagreement is jitter, and what encoders put before the first sound."""

MAX_BACK_S = 1.0
"""A clock that falls back by more has begun anew, as where recordings were joined; by less, it is only less
exact than the samples, and the sound behind is not moved until a gap makes up for it."""

MAX_CUT_S = 10.0
"""Most sound before the clock's zero, which no player plays."""

SILENCE_BLOCK_S = 1.0


@dataclass(frozen=True)
class Reading:
    """Where the clock stands."""

    at: int
    """Samples that were decoded before."""
    ahead: float
    """How many more samples the clock has counted at this place; fewer where negative."""


@dataclass
class Clock:
    """The clock of one audio track."""

    sample_rate: int
    """Hz."""
    start_s: float = 0.0
    """Time at which the recording begins; a transport stream counts from anywhere."""
    readings: deque[Reading] = field(default_factory=deque)
    """In order; the decoder adds those up to a block before it hands the block out."""

    def __post_init__(self) -> None:
        """Begin where the recording begins."""
        self._n_decoded = 0
        self._n_put = 0  # samples of silence put in, less those left out
        self._shift = self.start_s * self.sample_rate  # of the clock, to be taken off
        self._n_to_cut = 0
        self._starts_at = 0
        self._gaps = 0
        self._leap = 0.0

    @property
    def report(self) -> ClockReport | None:
        """What was done so far; None for nothing."""
        if not (self._starts_at or self._gaps or self._leap):
            return None
        return ClockReport(
            starts_at_s=self._starts_at / self.sample_rate,
            gaps_s=self._gaps / self.sample_rate,
            leap_s=self._leap / self.sample_rate,
        )

    def place(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        """Yield blocks (n_samples, n_channels), with silence where the clock was ahead of the samples."""
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
        """Leave out samples from the place `first` on; return where the sound goes on."""
        goes_on = min(len(block), first + n_samples)
        self._n_to_cut = n_samples - (goes_on - first)
        return goes_on

    def _silence_at(self, reading: Reading) -> int:
        """Return how many samples of silence go before this place; negative where samples are left out."""
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
