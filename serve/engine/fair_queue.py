"""Windows that wait for an engine -> the next batch: of one kind, fair to every request, not too long.

The request that has had least of the engine's time comes next (start-time fair queueing: Goyal, Vin and
Cheng, 1996), so a short clip waits for one batch of a long recording and no more. Windows of one kind from
several requests go together, as long as that is not expected to take long. Knows no threads: whoever calls
it takes turns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from serve.audio.samples import FRAMES_PER_S
from serve.engine import BatchSize, EngineInput
from serve.engine.batch_cost import BatchCost
from serve.engine.fallback import Trial


@dataclass(eq=False)
class Line:
    """What one request waits for, in order."""

    waiting: deque[Call] = field(default_factory=deque)
    served_s: float = 0.0
    """The engine's time, as expected, that the request has had or was passed over with."""
    unsettled: set[Future[Any]] = field(default_factory=set)
    """Answers that the request still waits for, those included that the engine is at."""


@dataclass(eq=False)
class Call:
    """What is asked of the engine about one window."""

    line: Line
    window: EngineInput
    kind: Hashable
    """Only calls of one kind share a batch."""
    trial: Trial | None
    """The attempts at its text; None where only its language is asked for."""
    future: Future[Any] = field(default_factory=Future)

    @property
    def window_s(self) -> float:
        """Seconds of the window, padding included."""
        return self.window.n_frames / FRAMES_PER_S

    @property
    def encoded_s(self) -> float:
        """Seconds of window that the engine must encode: none where an earlier call has."""
        return self.window_s if self.window.encoded is None else 0.0

    @property
    def bound_tokens(self) -> int:
        """Most tokens that may be written, in all texts that are kept side by side."""
        options = self.window.options
        return options.max_new_tokens * options.beam_size if self.trial else 0


class FairQueue:
    """The lines of all requests."""

    def __init__(self, limits: BatchSize, target_s: float) -> None:
        """Begin empty.

        Args:
            limits: The largest batch.
            target_s: Time that a batch of several windows may be expected to take.
        """
        self.cost = BatchCost()
        self._limits = limits
        self._target_s = target_s
        self._lines: list[Line] = []  # those with something waiting, in the order of their coming
        self._clock_s = 0.0  # what the line that was served last had had; newcomers begin with it

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._lines)

    def __iter__(self) -> Iterator[Call]:
        """Yield what waits."""
        return (each for line in self._lines for each in line.waiting)

    def put(self, call: Call, *, first: bool = False) -> None:
        """Add to a line: at its end, or before all else that it waits for."""
        line = call.line
        if not line.waiting:
            self._lines.append(line)
            line.served_s = max(line.served_s, self._clock_s)  # nobody saves time up while away
        (line.waiting.appendleft if first else line.waiting.append)(call)

    def drop(self, line: Line) -> None:
        """Forget what a line waits for."""
        line.waiting.clear()
        if line in self._lines:
            self._lines.remove(line)

    def next_batch(self, n_idle_workers: int) -> list[Call]:
        """Take what the line waits for that has had least time, and add like things while there is room.

        Each line gives one a round, those that have had less time first. What waits is shared out among the
        workers that have nothing to do.
        """
        n_waiting = sum(len(line.waiting) for line in self._lines)
        room = min(self._limits.windows, math.ceil(n_waiting / max(1, n_idle_workers)))
        first = min(self._lines, key=lambda line: line.served_s)
        self._clock_s = first.served_s
        batch = [self._take(first)]
        grown = True
        while grown:
            grown = False
            for line in sorted(self._lines, key=lambda line: line.served_s):
                if len(batch) < room and self._fits(line.waiting[0], batch):
                    batch.append(self._take(line))
                    grown = True
        return batch

    def expected_s(self, batch: Sequence[Call]) -> float:
        """Return the time that a batch is expected to take."""
        return self.cost.expected_s(
            sum(call.encoded_s for call in batch), sum(call.bound_tokens for call in batch)
        )

    def _take(self, line: Line) -> Call:
        call = line.waiting.popleft()
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
