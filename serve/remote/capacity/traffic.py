"""Recordings and when they come: durations, a daily curve, and Poisson arrivals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import i0e

from serve.errors import ConfigError

DAY_S = 86_400.0
LONGEST_S = 14_400.0
"""Longest recording that the service accepts by default; longer draws are cut to it."""
SHORTEST_S = 0.2


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe."""

    audio_s: float
    n_tokens: int | None = None
    """Tokens of its text; None takes what so much speech usually has."""


Draw = Callable[[], Recording]


class Durations:
    """Draws recordings: lognormal, or from those of a manifest."""

    def __init__(self, rng: np.random.Generator, audio_s: np.ndarray | None, mean_s: float, spread: float):
        """Choose the distribution.

        Args:
            audio_s: Durations of a manifest; None draws from the lognormal distribution.
            mean_s: Mean duration of the lognormal distribution.
            spread: Standard deviation of its logarithm.
        """
        self._rng, self._audio_s, self._spread = rng, audio_s, spread
        self._log_median = math.log(mean_s) - spread**2 / 2
        self.mean_s = mean_s if audio_s is None else float(audio_s.mean())

    def __call__(self) -> Recording:
        """Draw a recording."""
        if self._audio_s is not None:
            return Recording(float(self._rng.choice(self._audio_s)))
        drawn_s = self._rng.lognormal(self._log_median, self._spread)
        return Recording(min(LONGEST_S, max(SHORTEST_S, float(drawn_s))))


def manifest_durations(path: Path) -> np.ndarray:
    """Return the durations of a manifest of JSON lines, in seconds, (n_recordings,).

    Raises:
        ConfigError: The file cannot be read, or a line has no `duration_s` above 0.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--manifest {path} cannot be read: {error}"]) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            duration_s = float(json.loads(line)["duration_s"])
        except (ValueError, KeyError, TypeError):
            duration_s = 0.0
        if not 0 < duration_s < math.inf:
            raise ConfigError([f"--manifest {path}, line {number}: there is no duration_s above 0"])
        found.append(duration_s)
    if not found:
        raise ConfigError([f"--manifest {path} names no recording"])
    return np.array(found)


class DailyCurve:
    """How the rate of arrivals goes up and down over a day, with one peak (a von Mises curve)."""

    def __init__(self, peak_factor: float) -> None:
        """Find the curve whose peak is `peak_factor` times its mean."""
        self._narrowness = 0.0
        if peak_factor > 1:
            self._narrowness = float(brentq(lambda k: 1 / i0e(k) - peak_factor, 0.0, 1e4))
        self.peak_factor = peak_factor

    def factor(self, since_peak_s: float) -> float:
        """Return the rate relative to the day's mean, so long after the peak."""
        turn = 2 * math.pi * since_peak_s / DAY_S
        return self.peak_factor * math.exp(self._narrowness * (math.cos(turn) - 1))


def poisson(
    rng: np.random.Generator, rate_per_s: float, until_s: float, draw: Draw
) -> Iterator[tuple[float, Recording]]:
    """Yield arrivals, each with its time in seconds and its recording."""
    now_s = float(rng.exponential(1 / rate_per_s))
    while now_s < until_s:
        yield now_s, draw()
        now_s += float(rng.exponential(1 / rate_per_s))
