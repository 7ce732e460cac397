"""Decide whether another request may come in, and when a refused one should come back. Knows no windows.

The number of requests is bounded, and so is the sound that they have brought. Long requests leave some places
to short ones, which would otherwise wait for hours of sound although they take a second.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from serve.errors import Overloaded

LATEST_RETRY_S = 600
"""Longest time after which a refused client is told to retry."""
SLOWEST = 0.1
"""Least speed to reckon with: the first measurement of one may be of a disturbed moment."""


@dataclass(eq=False)
class Demand:
    """What an admitted request asks for."""

    is_long: bool = False
    left_s: float | None = None
    """Sound that is not yet read, in seconds; None where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast the engine is, and what it still has to do."""

    speed: float = 1.0
    """Seconds of sound decoded in a second."""
    waiting_s: float = 0.0
    """Time that the engine needs for the windows which wait, in seconds."""
    usual_s: float = 0.0
    """Sound that a short request brings on average, in seconds."""

    def time_for(self, audio_s: float) -> float:
        """Return how long so much sound takes, in seconds."""
        return audio_s / max(self.speed, SLOWEST)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """The bounds of a service."""

    max_requests: int = 16
    n_kept_for_short: int = 0
    """Places that long requests leave free."""
    max_waiting_audio_s: float = math.inf
    """Sound of all requests that is not yet read, in seconds."""
    max_wait_s: float = math.inf
    """Predicted time until the engine is free for a further request, in seconds."""

    def admit(self, demand: Demand, others: Collection[Demand], pace: Pace) -> None:
        """Raise unless there is a place beside the others.

        Raises:
            Overloaded: There is none; holds the time after which to retry.
        """
        n_long = sum(each.is_long for each in others)
        is_full = len(others) >= self.max_requests
        is_full |= demand.is_long and n_long >= self.max_requests - self.n_kept_for_short
        # Recordings that are still opened count as well: else many would be, only to be refused then.
        n_opened = sum(each.left_s is None and not each.is_long for each in others)
        if is_full or self._waits(_left_s(others) + n_opened * pace.usual_s, pace):
            raise Overloaded(retry_after_s(others, pace))

    def expect(self, demand: Demand, audio_s: float, others: Collection[Demand], pace: Pace) -> None:
        """Note how much sound a request has brought.

        Raises:
            Overloaded: The others have brought so much that it would exceed a bound.
        """
        others_s = _left_s(others)
        is_full = bool(others_s) and others_s + audio_s > self.max_waiting_audio_s
        if is_full or self._waits(others_s, pace):
            raise Overloaded(retry_after_s(others, pace))
        demand.left_s = audio_s

    def _waits(self, others_s: float, pace: Pace) -> bool:
        """Tell whether the sound that others have brought keeps the engine for too long."""
        return pace.waiting_s + pace.time_for(others_s) > self.max_wait_s


def _left_s(demands: Collection[Demand]) -> float:
    return sum(each.left_s or 0.0 for each in demands)


def retry_after_s(admitted: Collection[Demand], pace: Pace) -> int:
    """Return in how many seconds a place should be free: once the least sound is read, at its share."""
    known = [each.left_s for each in admitted if each.left_s is not None]
    next_free_s = pace.time_for(min(known) * len(admitted)) if known else 0.0
    return min(LATEST_RETRY_S, max(1, math.ceil(max(next_free_s, pace.waiting_s))))
