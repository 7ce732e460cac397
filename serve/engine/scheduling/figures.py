"""A scheduler's metrics: what waits now, and what was done so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class _Figures:
    """A dataclass of numbers that adds field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Queue(_Figures):
    """The scheduler's load at a moment."""

    n_admitted: int = 0
    """Requests admitted and not finished."""
    n_waiting: int = 0
    """Windows ready for the engine; a request queues a few at a time."""
    waiting_s: float = 0.0
    """Predicted engine time of the waiting windows, in seconds."""
    n_running: int = 0
    """Windows being decoded."""
    n_workers: int = 0
    """Batches that can be decoded in parallel."""
    n_busy_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Totals(_Figures):
    """The engine's work since it was loaded."""

    n_batches: int = 0
    n_windows: int = 0
    window_s: float = 0.0
    """Seconds of window encoded."""
    n_tokens: int = 0
    """Tokens of returned texts."""
    n_fallbacks: int = 0
    """Windows whose text was sampled because no likelier one was believable."""
    n_failures: int = 0
    """Batches on which the engine failed."""
    busy_s: float = 0.0
    """Time spent in batches, in seconds, summed over workers."""
