"""What a scheduler tells about itself: what waits now, and what was done so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class _Figures:
    """A dataclass of numbers, which those of another engine can be added to."""

    def __add__(self, other: Self) -> Self:
        """Add up, figure by figure."""
        return type(self)(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Queue(_Figures):
    """What waits for the engine at a moment."""

    n_admitted: int = 0
    """Requests that hold a place."""
    n_waiting: int = 0
    """Windows that are ready for the engine; a request has a few at a time."""
    waiting_s: float = 0.0
    """Time that the engine is expected to need for them."""
    n_running: int = 0
    """Windows that are being decoded."""
    n_workers: int = 0
    """Batches that can be decoded at a time."""
    n_busy_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Totals(_Figures):
    """What the engine has done since it was loaded."""

    n_batches: int = 0
    n_windows: int = 0
    window_s: float = 0.0
    """Seconds of window encoded."""
    n_tokens: int = 0
    """Tokens of the texts that were given out."""
    n_fallbacks: int = 0
    """Windows whose text was drawn at random, since no likelier one was believed."""
    n_failures: int = 0
    """Batches on which the engine failed."""
    busy_s: float = 0.0
    """Time in batches, summed over workers."""
