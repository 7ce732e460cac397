"""Choose the next batch from the waiting windows: of one kind, fair to every request, not too long.

The request that has had the least engine time comes next (start-time fair queueing: Goyal, Vin and Cheng,
1996), so a short clip waits for at most one batch of a long recording. Windows of one kind from several
requests share a batch while its predicted time is short. Not thread-safe: the caller holds a lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from serve.audio.samples import FRAMES_PER_S
from serve.engine import BatchSize, EngineInput, tracing
from serve.engine.fallback import Trial
from serve.engine.scheduling.batch_cost import BatchCost


@dataclass(frozen=True)
class BatchLimits:
    """The largest batch to decode."""

    max_windows: int | None = None
    """None takes the engine's usual number."""
    max_batch_s: float | None = None
    """Seconds of windows, padding included; None takes the engine's usual limit."""
    target_s: float = 1.5
    """Longest predicted time of a batch of several windows, in seconds; a new request waits this long for
    it."""

    def largest(self, usual: BatchSize) -> BatchSize:
        """Return the largest batch; `usual` is the engine's own."""
        return BatchSize(
            usual.windows if self.max_windows is None else self.max_windows,
            usual.window_s if self.max_batch_s is None else self.max_batch_s,
        )


@dataclass(eq=False)
class Line:
    """The queue of one request."""

    waiting: deque[Call] = field(default_factory=deque)
    served_s: float = 0.0
    """Predicted engine time, in seconds, that the request has used; a newcomer starts at the queue's
    clock."""
    unsettled: set[Future[Any]] = field(default_factory=set)
    """Futures that the request still waits for, those of running batches included."""


@dataclass(eq=False)
class Call:
    """One engine call for one window."""

    line: Line
    window: EngineInput
    kind: Hashable
    """Only calls of one kind share a batch."""
    trial: Trial | None
    """The decoding attempts; None for language detection."""
    future: Future[Any] = field(default_factory=Future)
    is_repeated: bool = False
    """Whether the engine's process ended in the middle of it, and this is the second time."""
    waiting: tracing.Waiting | None = field(default_factory=tracing.waiting)

    @property
    def window_s(self) -> float:
        """Seconds of the window, padding included."""
        return self.window.n_frames / FRAMES_PER_S

    @property
    def encoded_s(self) -> float:
        """Seconds of window that the engine must encode; 0 where an earlier call has."""
        return self.window_s if self.window.encoded is None else 0.0

    @property
    def bound_tokens(self) -> int:
        """Most tokens that may be emitted, over all beams."""
        options = self.window.options
        return options.max_new_tokens * options.beam_size if self.trial else 0


class FairQueue:
    """The queues of all requests."""

    def __init__(self, limits: BatchSize, target_s: float) -> None:
        """Start empty.

        Args:
            target_s: Longest predicted time of a batch of several windows.
        """
        self.cost = BatchCost()
        self._limits = limits
        self._target_s = target_s
        self._lines: list[Line] = []  # those with waiting calls, in order of arrival
        self._clock_s = 0.0  # virtual time: `served_s` of the line served last; newcomers start with it

    def __len__(self) -> int:
        return sum(len(line.waiting) for line in self._lines)

    def __iter__(self) -> Iterator[Call]:
        return (each for line in self._lines for each in line.waiting)

    def put(self, call: Call, *, first: bool = False) -> None:
        """Append a call to its line, or with `first` prepend it."""
        line = call.line
        if not line.waiting:
            self._lines.append(line)
            line.served_s = max(line.served_s, self._clock_s)  # idle time earns no credit
        (line.waiting.appendleft if first else line.waiting.append)(call)

    def drop(self, line: Line) -> None:
        line.waiting.clear()
        if line in self._lines:
            self._lines.remove(line)

    def next_batch(self, n_idle_workers: int) -> list[Call]:
        """Take a call of the least-served line, and add calls of its kind while the batch has room.

        Each line adds one per round, least-served lines first: its first call of that kind, since windows of
        one length are rarely neighbours. Waiting calls are divided among idle workers.
        """
        room = min(self._limits.windows, math.ceil(len(self) / max(1, n_idle_workers)))
        first = min(self._lines, key=lambda line: line.served_s)
        self._clock_s = first.served_s
        batch = [self._take(first, first.waiting[0])]
        grown = True
        while grown:
            grown = False
            for line in sorted(self._lines, key=lambda line: line.served_s):
                found = next((call for call in line.waiting if self._fits(call, batch)), None)
                if found is not None and len(batch) < room:
                    batch.append(self._take(line, found))
                    grown = True
        return batch

    def expected_s(self, batch: Sequence[Call]) -> float:
        return self.cost.expected_s(
            sum(call.encoded_s for call in batch), sum(call.bound_tokens for call in batch)
        )

    def _take(self, line: Line, call: Call) -> Call:
        line.waiting.remove(call)
        line.served_s += self.expected_s([call])
        self._lines.remove(line)
        if line.waiting:
            self._lines.append(line)
        return call

    def _fits(self, candidate: Call, batch: Sequence[Call]) -> bool:
        together = [*batch, candidate]
        return (
            candidate.kind == batch[0].kind
            and sum(call.window_s for call in together) <= self._limits.window_s
            and self.expected_s(together) <= self._target_s
        )
