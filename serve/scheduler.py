"""Windows of all requests -> batches for the engine: bounded, fair and cancellable. Knows no HTTP.

    with scheduler.admit() as ticket:                 # raises Overloaded before any work is done
        for hypothesis in ticket.decode(inputs): ...  # from any thread; in order

One thread owns the engine. Requests take turns window by window, so that a short clip never waits for a long
recording, and windows of like length from several requests are decoded together.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from serve.engine import DecodingOptions, Engine, Hypothesis, LogMel
from serve.errors import EngineError, NotReady, Overloaded, ServiceError

LENGTH_RATIO = 1.25
"""Windows share a batch when none grows by more than this: padding costs time, and changes the sound."""

WINDOWS_AHEAD = 8
"""Windows of one request that exist at a time; their features take up to 1 MB each."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """How much is decoded at once."""

    max_windows: int = 8
    max_batch_s: float = 60.0
    """Seconds of windows, padding included. It bounds how long a newcomer waits for the batch before it."""


@dataclass(eq=False)
class _Waiting:
    """A window that waits for the engine."""

    ticket: Ticket
    log_mel: LogMel
    options: DecodingOptions
    future: Future[Hypothesis] = field(default_factory=Future)

    @property
    def n_frames(self) -> int:
        return int(self.log_mel.shape[1])


class Ticket:
    """One admitted request. A context manager: leaving it frees its place and drops its waiting windows."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Only `Scheduler.admit` makes tickets."""
        self._scheduler = scheduler
        self.waiting: deque[_Waiting] = deque()  # this and the next: guarded by the scheduler's lock
        self.unsettled: set[Future[Hypothesis]] = set()
        self._error: ServiceError | None = None

    def decode(self, inputs: Iterable[tuple[LogMel, DecodingOptions]]) -> Iterator[Hypothesis]:
        """Yield a hypothesis for every window, in order; `inputs` is pulled a few windows ahead.

        Raises:
            ServiceError: The engine failed on a window, or the ticket was cancelled with that error.
        """
        source = iter(inputs)
        ahead: deque[Future[Hypothesis]] = deque()
        while True:
            # Finding the next window takes time as well: what is known already goes out first.
            if not (ahead and ahead[0].done()) and len(ahead) < WINDOWS_AHEAD:
                if (item := next(source, None)) is not None:
                    ahead.append(self._scheduler._enqueue(self, *item))
                    continue
                if not ahead:
                    return
            yield ahead.popleft().result()

    def cancel(self, error: ServiceError | None = None) -> None:
        """Drop the windows of this request and wake its thread; from any thread, any number of times.

        A batch that the engine has begun is finished, but its result for this request is thrown away.
        """
        self._scheduler._cancel(self, error or NotReady("the request was cancelled"))

    def close(self) -> None:
        """Free the place of this request."""
        self.cancel()
        self._scheduler._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Scheduler:
    """Owns an engine and the thread that calls it."""

    def __init__(self, engine: Engine, *, max_requests: int = 16, limits: BatchLimits | None = None) -> None:
        """Start the engine's thread.

        Args:
            engine: Called by that thread alone from now on.
            max_requests: Requests admitted at a time, those included that are still sending or being decoded.
            limits: How much is decoded at once.
        """
        self._engine = engine
        self._max_requests = max_requests
        self._limits = limits or BatchLimits()
        self._changed = threading.Condition()
        self._admitted: set[Ticket] = set()
        self._turns: deque[Ticket] = deque()  # those with waiting windows, whose turn is next first
        self._closing = False
        self._batch_started: float | None = None
        self._s_per_window = 1.0  # moving average
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_admitted(self) -> int:
        """Requests that hold a place."""
        return len(self._admitted)

    def is_alive(self, stuck_after_s: float) -> bool:
        """Tell whether the engine's thread runs, and has not been at one batch for too long."""
        started = self._batch_started
        return self._thread.is_alive() and (started is None or time.monotonic() - started < stuck_after_s)

    def admit(self) -> Ticket:
        """Give out a place.

        Raises:
            Overloaded: All places are taken; says when to come back.
            NotReady: The scheduler is closing.
        """
        with self._changed:
            if self._closing:
                raise NotReady("the service is shutting down")
            if len(self._admitted) >= self._max_requests:
                raise Overloaded(self._retry_after_s())
            ticket = Ticket(self)
            self._admitted.add(ticket)
            return ticket

    def cancel_all(self, error: ServiceError) -> None:
        """Fail every admitted request."""
        for ticket in list(self._admitted):
            ticket.cancel(error)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Refuse new requests, fail the admitted ones, and stop the thread.

        Returns:
            Whether the thread has ended; False if it is still in a batch after `timeout_s`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.cancel_all(NotReady("the service is shutting down"))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _retry_after_s(self) -> int:
        n_waiting = sum(len(ticket.waiting) for ticket in self._admitted)
        return min(60, max(1, math.ceil(self._s_per_window * max(n_waiting, 1))))

    def _enqueue(self, ticket: Ticket, log_mel: LogMel, options: DecodingOptions) -> Future[Hypothesis]:
        waiting = _Waiting(ticket, log_mel, options)
        with self._changed:
            if ticket._error is not None:
                raise ticket._error
            if not ticket.waiting:
                self._turns.append(ticket)
            ticket.waiting.append(waiting)
            ticket.unsettled.add(waiting.future)
            self._changed.notify()
        return waiting.future

    def _cancel(self, ticket: Ticket, error: ServiceError) -> None:
        with self._changed:
            ticket._error = ticket._error or error
            ticket.waiting.clear()
            if ticket in self._turns:
                self._turns.remove(ticket)
            for future in ticket.unsettled:
                future.set_exception(ticket._error)
            ticket.unsettled.clear()

    def _settle(self, waiting: _Waiting, outcome: Hypothesis | ServiceError) -> None:
        """Hand out what was found, unless the request was cancelled meanwhile."""
        with self._changed:
            if waiting.future not in waiting.ticket.unsettled:
                return
            waiting.ticket.unsettled.remove(waiting.future)
        if isinstance(outcome, ServiceError):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)

    def _release(self, ticket: Ticket) -> None:
        with self._changed:
            self._admitted.discard(ticket)

    def _run(self) -> None:
        """Decode batch after batch until closed."""
        while True:
            with self._changed:
                while not self._turns and not self._closing:
                    self._changed.wait()
                if self._closing:
                    break
                batch = self._next_batch()
                self._batch_started = time.monotonic()
            self._decode(batch)
            elapsed_s = time.monotonic() - self._batch_started
            self._batch_started = None
            self._s_per_window += 0.2 * (elapsed_s / len(batch) - self._s_per_window)
        self._engine.close()

    def _next_batch(self) -> list[_Waiting]:
        """Take one window of the request whose turn it is, and add like windows while the batch has room.

        Each request gives one window a round and then goes to the end of the line.
        """
        batch = [self._take(self._turns[0])]
        grown = True
        while grown:
            grown = False
            for ticket in list(self._turns):  # whom the batch has no room for keeps its place in the line
                if ticket.waiting and self._fits(ticket.waiting[0], batch):
                    batch.append(self._take(ticket))
                    grown = True
        return batch

    def _take(self, ticket: Ticket) -> _Waiting:
        waiting = ticket.waiting.popleft()
        self._turns.remove(ticket)
        if ticket.waiting:
            self._turns.append(ticket)
        return waiting

    def _fits(self, candidate: _Waiting, batch: Sequence[_Waiting]) -> bool:
        lengths = [candidate.n_frames, *(waiting.n_frames for waiting in batch)]
        return (
            len(batch) < self._limits.max_windows
            and candidate.options.adapter == batch[0].options.adapter
            and max(lengths) <= LENGTH_RATIO * min(lengths)
            and max(lengths) * len(lengths) <= self._limits.max_batch_s * 100  # frames a second
        )

    def _decode(self, batch: Sequence[_Waiting]) -> None:
        """Decode a batch and hand out what was found; no error leaves this function."""
        try:
            hypotheses = self._engine.transcribe_batch(
                [waiting.log_mel for waiting in batch], [waiting.options for waiting in batch]
            )
        except Exception as error:
            _log.error("engine.failed", n_windows=len(batch), error=type(error).__name__, exc_info=True)
            if len({waiting.ticket for waiting in batch}) > 1:
                # Only the request whose window the engine chokes on shall fail.
                for waiting in batch:
                    self._decode([waiting])
                return
            for waiting in batch:
                self._settle(waiting, EngineError("the engine failed on this recording"))
            return
        for waiting, hypothesis in zip(batch, hypotheses, strict=True):
            self._settle(waiting, hypothesis)
