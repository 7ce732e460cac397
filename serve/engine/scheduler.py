"""Windows of all requests -> batches for the engine: bounded, fair and cancellable. Knows no HTTP.

    with scheduler.admit() as ticket:                 # raises Overloaded before any work is done
        for hypothesis in ticket.decode(inputs): ...  # from any thread; in order

Each of the engine's workers has a thread that decodes batch after batch. The request that has had least of
their time comes next (start-time fair queueing: Goyal, Vin and Cheng, 1996), so a short clip waits for one
batch of a long recording and no more; windows of one length from several requests are decoded together, as
long as that is not expected to take long.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NoReturn, Self

import structlog

from serve.audio.samples import FRAMES_PER_S
from serve.engine import DecodingOptions, Engine, Hypothesis, LogMel
from serve.engine.batch_cost import BatchCost
from serve.engine.closing import Closing
from serve.errors import EngineError, NotReady, Overloaded, RequestTimeout, ServiceError

WINDOWS_AHEAD = 8
"""Windows of one request that exist at a time for each worker; their features take up to 1 MB each."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """How much is decoded at once."""

    max_windows: int | None = None
    """The engine's usual number, if None."""
    max_batch_s: float | None = None
    """Seconds of windows, padding included; the engine's usual ones, if None."""
    target_s: float = 1.5
    """Seconds that a batch of several windows may be expected to take: so long a newcomer waits for it."""


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
    """Windows that the engine is at."""
    n_workers: int = 0
    """Batches that the engine can be at."""
    n_busy_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Totals(_Figures):
    """What the engine has done since it was loaded."""

    n_batches: int = 0
    n_windows: int = 0
    window_s: float = 0.0
    """Seconds of window encoded."""
    n_tokens: int = 0
    n_fallbacks: int = 0
    """Windows whose text was drawn at random, since no likelier one was believed."""
    n_failures: int = 0
    """Batches on which the engine failed."""
    busy_s: float = 0.0
    """Time in batches, summed over workers."""


@dataclass(frozen=True)
class _Running:
    """A batch that a worker is at."""

    n_windows: int
    started: float


@dataclass(eq=False)
class _Waiting:
    """A window that waits for the engine."""

    ticket: Ticket
    log_mel: LogMel
    options: DecodingOptions
    future: Future[Hypothesis] = field(default_factory=Future)

    @property
    def window_s(self) -> float:
        return int(self.log_mel.shape[1]) / FRAMES_PER_S


class Ticket(Closing):
    """One admitted request. A context manager: leaving it frees its place and drops its waiting windows."""

    def __init__(self, scheduler: Scheduler, timeout_s: float) -> None:
        """Only `Scheduler.admit` makes tickets."""
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.waiting: deque[_Waiting] = deque()  # this and the next two: guarded by the scheduler's lock
        self.unsettled: set[Future[Hypothesis]] = set()
        self.served_s = (
            0.0  # the engine's time, as expected, that this request has had or was passed over with
        )
        self._error: ServiceError | None = None

    def decode(self, inputs: Iterable[tuple[LogMel, DecodingOptions]]) -> Iterator[Hypothesis]:
        """Yield a hypothesis for every window, in order; `inputs` is pulled a few windows ahead.

        Raises:
            RequestTimeout: The request's time is over.
            ServiceError: The engine failed on a window, or the ticket was cancelled with that error.
            Exception: What `inputs` raises, once the windows before it are decoded.
        """
        source = iter(inputs)
        ahead: deque[Future[Hypothesis]] = deque()
        fault: Exception | None = None
        while True:
            # Finding the next window takes time as well: what is known already goes out first.
            if not (ahead and ahead[0].done()) and len(ahead) < self._scheduler.windows_ahead:
                try:
                    item = next(source, None)
                except Exception as error:  # what was found before it goes out first
                    item, fault = None, error
                if item is not None:
                    ahead.append(self._scheduler._enqueue(self, *item))
                    continue
                if not ahead:
                    if fault is not None:
                        raise fault
                    return
            yield self._result(ahead.popleft())

    def check(self) -> None:
        """Raise if there is no use in going on: for work between windows, such as looking for speech.

        Raises:
            RequestTimeout: The request's time is over.
            ServiceError: The ticket was cancelled with that error.
        """
        if self._error is not None:
            raise self._error
        if time.monotonic() >= self._deadline:
            self._time_out()

    def _result(self, future: Future[Hypothesis]) -> Hypothesis:
        left_s = None if math.isinf(self._deadline) else max(0.0, self._deadline - time.monotonic())
        try:
            return future.result(left_s)
        except TimeoutError:
            self._time_out()

    def _time_out(self) -> NoReturn:
        error = RequestTimeout(self._timeout_s)
        self.cancel(error)
        raise error

    def cancel(self, error: ServiceError | None = None) -> None:
        """Drop the windows of this request and wake its thread; from any thread, any number of times.

        A batch that the engine has begun is finished, but its result for this request is thrown away.
        """
        self._scheduler._cancel(self, error or NotReady("the request was cancelled"))

    def close(self) -> None:
        """Free the place of this request."""
        self.cancel()
        self._scheduler._release(self)


class Scheduler:
    """Owns an engine and the threads that call it."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_requests: int = 16,
        request_timeout_s: float = math.inf,
        limits: BatchLimits | None = None,
    ) -> None:
        """Start the engine's threads.

        Args:
            engine: Called by these threads alone from now on.
            max_requests: Requests admitted at a time, those included that are still sending or being decoded.
            request_timeout_s: Time that a request has, from its admission.
            limits: How much is decoded at once.
        """
        self._engine = engine
        self._max_requests = max_requests
        self._request_timeout_s = request_timeout_s
        limits = limits or BatchLimits()
        usual = engine.usual_batch
        self._max_windows = usual.windows if limits.max_windows is None else limits.max_windows
        self._max_batch_s = usual.window_s if limits.max_batch_s is None else limits.max_batch_s
        self._target_s = limits.target_s
        self._changed = threading.Condition()
        self._admitted: set[Ticket] = set()
        self._turns: list[Ticket] = []  # those with waiting windows, in the order of their coming
        self._clock_s = 0.0  # what the request that was served last had had; newcomers begin with it
        self._cost = BatchCost()
        self._totals = Totals()
        self._closing = False
        self._running: dict[int, _Running] = {}  # by worker
        self._n_workers = max(1, engine.n_workers)
        self.windows_ahead = WINDOWS_AHEAD * self._n_workers
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name=f"engine-{worker}", daemon=True)
            for worker in range(self._n_workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_admitted(self) -> int:
        """Requests that hold a place."""
        return len(self._admitted)

    def queue(self) -> Queue:
        """Look at what waits."""
        with self._changed:
            waiting = [each for ticket in self._admitted for each in ticket.waiting]
            return Queue(
                n_admitted=len(self._admitted),
                n_waiting=len(waiting),
                waiting_s=sum(self._expected_s([each]) for each in waiting),
                n_running=sum(running.n_windows for running in self._running.values()),
                n_workers=self._n_workers,
                n_busy_workers=len(self._running),
            )

    def totals(self) -> Totals:
        """Return what the engine has done."""
        return self._totals

    def is_alive(self, stuck_after_s: float) -> bool:
        """Tell whether the engine's threads run, and none has been at one batch for too long."""
        oldest = time.monotonic() - stuck_after_s
        return all(thread.is_alive() for thread in self._threads) and all(
            running.started > oldest for running in list(self._running.values())
        )

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
            ticket = Ticket(self, self._request_timeout_s)
            self._admitted.add(ticket)
            return ticket

    def cancel_all(self, error: ServiceError) -> None:
        """Fail every admitted request."""
        for ticket in list(self._admitted):
            ticket.cancel(error)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Refuse new requests, fail the admitted ones, and stop the threads.

        Returns:
            Whether the threads have ended; False if one is still in a batch after `timeout_s`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.cancel_all(NotReady("the service is shutting down"))
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _retry_after_s(self) -> int:
        waiting_s = sum(self._expected_s([each]) for ticket in self._admitted for each in ticket.waiting)
        return min(60, max(1, math.ceil(waiting_s)))

    def _enqueue(self, ticket: Ticket, log_mel: LogMel, options: DecodingOptions) -> Future[Hypothesis]:
        waiting = _Waiting(ticket, log_mel, options)
        with self._changed:
            if ticket._error is not None:
                raise ticket._error
            if not ticket.waiting:
                self._turns.append(ticket)
                ticket.served_s = max(ticket.served_s, self._clock_s)  # nobody saves time up while away
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

    def _run(self, worker: int) -> None:
        """Decode batch after batch until closed; the last thread to leave frees the engine."""
        while True:
            with self._changed:
                while not self._turns and not self._closing:
                    self._changed.wait()
                if self._closing:
                    self._n_workers -= 1
                    is_last = self._n_workers == 0
                    break
                batch = self._next_batch()
                self._running[worker] = _Running(len(batch), time.monotonic())
            self._decode(batch)
            with self._changed:
                del self._running[worker]
        if is_last:
            self._engine.close()

    def _next_batch(self) -> list[_Waiting]:
        """Take a window of the request that has had least time, and add like ones while there is room.

        Each request gives one window a round, those that have had less time first. What waits is shared out
        among the workers that have nothing to do.
        """
        n_waiting = sum(len(ticket.waiting) for ticket in self._turns)
        n_idle = max(1, self._n_workers - len(self._running))
        room = min(self._max_windows, math.ceil(n_waiting / n_idle))
        first = min(self._turns, key=lambda ticket: ticket.served_s)
        self._clock_s = first.served_s
        batch = [self._take(first)]
        grown = True
        while grown:
            grown = False
            for ticket in sorted(self._turns, key=lambda ticket: ticket.served_s):
                if len(batch) < room and self._fits(ticket.waiting[0], batch):
                    batch.append(self._take(ticket))
                    grown = True
        return batch

    def _take(self, ticket: Ticket) -> _Waiting:
        waiting = ticket.waiting.popleft()
        ticket.served_s += self._expected_s([waiting])
        self._turns.remove(ticket)
        if ticket.waiting:
            self._turns.append(ticket)
        return waiting

    def _fits(self, candidate: _Waiting, batch: Sequence[_Waiting]) -> bool:
        together = [*batch, candidate]
        return (
            candidate.options.adapter == batch[0].options.adapter
            and candidate.window_s == batch[0].window_s
            and _encoded_s(together) <= self._max_batch_s
            and self._expected_s(together) <= self._target_s
        )

    def _expected_s(self, batch: Sequence[_Waiting]) -> float:
        return self._cost.expected_s(_encoded_s(batch), _bound_tokens(batch))

    def _decode(self, batch: Sequence[_Waiting]) -> None:
        """Decode a batch and hand out what was found; no error leaves this function."""
        started = time.monotonic()
        try:
            hypotheses = self._engine.transcribe_batch(
                [waiting.log_mel for waiting in batch], [waiting.options for waiting in batch]
            )
        except Exception as error:
            _log.error("engine.failed", n_windows=len(batch), error=type(error).__name__, exc_info=True)
            with self._changed:
                self._totals += Totals(n_failures=1)
            if len({waiting.ticket for waiting in batch}) > 1:
                # Only the request whose window the engine chokes on shall fail.
                for waiting in batch:
                    self._decode([waiting])
                return
            for waiting in batch:
                self._settle(waiting, EngineError("the engine failed on this recording"))
            return
        n_tokens = sum(len(hypothesis.tokens) for hypothesis in hypotheses)
        busy_s = time.monotonic() - started
        fallbacks = [
            found.temperature != waiting.options.temperature
            for waiting, found in zip(batch, hypotheses, strict=True)
        ]
        with self._changed:
            self._cost.learn(_encoded_s(batch), _bound_tokens(batch), n_tokens, busy_s)
            self._totals += Totals(
                n_batches=1,
                n_windows=len(batch),
                window_s=_encoded_s(batch),
                n_tokens=n_tokens,
                n_fallbacks=sum(fallbacks),
                busy_s=busy_s,
            )
        for waiting, hypothesis in zip(batch, hypotheses, strict=True):
            self._settle(waiting, hypothesis)


def _encoded_s(batch: Sequence[_Waiting]) -> float:
    """Return the seconds of window that are encoded."""
    return sum(waiting.window_s for waiting in batch)


def _bound_tokens(batch: Sequence[_Waiting]) -> int:
    return sum(waiting.options.max_new_tokens * waiting.options.beam_size for waiting in batch)
