"""Windows of all requests -> calls of the engine: bounded, fair and cancellable. Knows no HTTP.

    with scheduler.admit() as ticket:                 # raises Overloaded before any work is done
        for hypothesis in ticket.decode(inputs): ...  # from any thread; in order

Each of the engine's workers has a thread that makes call after call, with windows of one kind each, in the
order of `serve.engine.fair_queue`. A window whose text is not believed (`serve.engine.fallback`) comes back
as a window of its own, before what its request waits for besides.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import structlog

from serve.engine import BatchSize, Engine, EngineInput, Hypothesis, LanguageProbs
from serve.engine.fair_queue import Call, FairQueue, Line
from serve.engine.fallback import Trial
from serve.engine.figures import Queue, Totals
from serve.errors import EngineError, NotReady, Overloaded, RequestTimeout, ServiceError

WINDOWS_AHEAD = 8
"""Windows of one request that exist at a time for each worker; their features take up to 1 MB each."""

Answer = Hypothesis | LanguageProbs
"""Text of a window, or the probabilities of its languages."""

LANGUAGE = "language"
"""Kind, with the windows' length, of the calls that ask for a language."""

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

    def largest(self, usual: BatchSize) -> BatchSize:
        """Return the largest batch; `usual` is the engine's."""
        return BatchSize(
            usual.windows if self.max_windows is None else self.max_windows,
            usual.window_s if self.max_batch_s is None else self.max_batch_s,
        )


@dataclass(frozen=True)
class _Running:
    """A batch that a worker is at."""

    n_windows: int
    started: float


class Ticket(AbstractContextManager["Ticket"]):
    """One admitted request. A context manager: leaving it frees its place and drops its waiting windows."""

    def __init__(self, scheduler: Scheduler, timeout_s: float) -> None:
        """Only `Scheduler.admit` makes tickets."""
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.line = Line()  # this and the next: guarded by the scheduler's lock
        self.error: ServiceError | None = None

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
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
                    window = next(source, None)
                except Exception as error:  # what was found before it goes out first
                    window, fault = None, error
                if window is not None:
                    ahead.append(self._scheduler._enqueue(self, window, Trial(window.options)))
                    continue
                if not ahead:
                    if fault is not None:
                        raise fault
                    return
            yield self._result(ahead.popleft())

    def detect_languages(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        """Return how probable each language is in each window.

        Raises:
            RequestTimeout: The request's time is over.
            ServiceError: The engine failed, or the ticket was cancelled with that error.
        """
        asked = [self._scheduler._enqueue(self, window, None) for window in windows]
        return [self._result(future) for future in asked]

    def check(self) -> None:
        """Raise if there is no use in going on: for work between windows, such as looking for speech.

        Raises:
            RequestTimeout: The request's time is over.
            ServiceError: The ticket was cancelled with that error.
        """
        if self.error is not None:
            raise self.error
        if time.monotonic() >= self._deadline:
            self._time_out()

    def _result(self, future: Future[Any]) -> Any:
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
        """Free the place of this request; any number of times."""
        self.cancel()
        self._scheduler._release(self)

    def __exit__(self, *error: object) -> None:
        """Free the place of this request."""
        self.close()


class Scheduler(AbstractContextManager["Scheduler"]):
    """Makes the calls of an engine, in threads of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_requests: int = 16,
        request_timeout_s: float = math.inf,
        limits: BatchLimits | None = None,
        frees_engine: bool = True,
    ) -> None:
        """Start the engine's threads.

        Args:
            engine: Decodes in these threads alone from now on.
            max_requests: Requests admitted at a time, those included that are still sending or being decoded.
            request_timeout_s: Time that a request has, from its admission.
            limits: How much is decoded at once.
            frees_engine: Whether the engine is closed behind the last thread.
        """
        self._engine = engine
        self._max_requests = max_requests
        self._request_timeout_s = request_timeout_s
        self._frees_engine = frees_engine
        limits = limits or BatchLimits()
        self._changed = threading.Condition()
        self._admitted: set[Ticket] = set()
        self._waiting = FairQueue(limits.largest(engine.usual_batch), limits.target_s)
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
            return Queue(
                n_admitted=len(self._admitted),
                n_waiting=sum(1 for _ in self._waiting),
                waiting_s=self._waiting_s(),
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
                raise Overloaded(min(60, max(1, math.ceil(self._waiting_s()))))
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

    def __exit__(self, *error: object) -> None:
        """Stop the threads."""
        self.close()

    def _waiting_s(self) -> float:
        return sum(self._waiting.expected_s([call]) for call in self._waiting)

    def _enqueue(self, ticket: Ticket, window: EngineInput, trial: Trial | None) -> Future[Any]:
        """Ask for the text of a window, or for its language alone."""
        kind = (LANGUAGE, window.n_frames) if trial is None else self._engine.kind(window)
        call = Call(ticket.line, window, kind, trial)
        with self._changed:
            if ticket.error is not None:
                raise ticket.error
            ticket.line.unsettled.add(call.future)
            self._waiting.put(call)
            self._changed.notify()
        return call.future

    def _cancel(self, ticket: Ticket, error: ServiceError) -> None:
        with self._changed:
            ticket.error = ticket.error or error
            self._waiting.drop(ticket.line)
            for future in ticket.line.unsettled:
                future.set_exception(ticket.error)
            ticket.line.unsettled.clear()

    def _release(self, ticket: Ticket) -> None:
        with self._changed:
            self._admitted.discard(ticket)

    def _run(self, worker: int) -> None:
        """Make call after call until closed; the last thread to leave frees the engine."""
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    self._n_workers -= 1
                    is_last = self._n_workers == 0
                    break
                batch = self._waiting.next_batch(self._n_workers - len(self._running))
                self._running[worker] = _Running(len(batch), time.monotonic())
            self._call(batch)
            with self._changed:
                del self._running[worker]
        if is_last and self._frees_engine:
            self._engine.close()

    def _call(self, batch: Sequence[Call]) -> None:
        """Call the engine and hand out what was found; no error leaves this function."""
        started = time.monotonic()
        windows, encoded_s = [call.window for call in batch], sum(call.encoded_s for call in batch)
        found: list[Answer] = []
        try:
            found += (
                self._engine.detect_language(windows)
                if batch[0].trial is None
                else self._engine.decode(windows)
            )
        except Exception as error:
            self._fail(batch, error)
            return
        busy_s = time.monotonic() - started
        with self._changed:
            if encoded_s:  # further attempts say little about the price of windows
                bound_tokens = sum(call.bound_tokens for call in batch)
                n_tokens = sum(len(each.tokens) for each in found if isinstance(each, Hypothesis))
                self._waiting.cost.learn(encoded_s, bound_tokens, n_tokens, busy_s)
            self._totals += Totals(n_batches=1, window_s=encoded_s, busy_s=busy_s)
        for call, each in zip(batch, found, strict=True):
            try:
                self._take(call, each)
            except Exception as error:
                self._fail([call], error)

    def _take(self, call: Call, found: Answer) -> None:
        """Give out what was found, or try the window again before what its request waits for besides."""
        if call.trial is None or not isinstance(found, Hypothesis):
            self._settle(call, found)
            return
        best = call.trial.take(found, can=lambda options: self._engine.unsupported(options) is None)
        if best is None:
            call.window = replace(call.window, options=call.trial.options)
            call.kind = self._engine.kind(call.window)
            with self._changed:
                if call.future in call.line.unsettled:
                    self._waiting.put(call, first=True)
                    self._changed.notify()
            return
        with self._changed:
            self._totals += Totals(
                n_windows=1, n_tokens=len(best.tokens), n_fallbacks=int(call.trial.is_drawn)
            )
        self._settle(call, best)

    def _fail(self, batch: Sequence[Call], error: Exception) -> None:
        """Fail a request whose window the engine chokes on, and no other."""
        _log.error("engine.failed", n_windows=len(batch), error=type(error).__name__, exc_info=error)
        with self._changed:
            self._totals += Totals(n_failures=1)
        if any(call.line is not batch[0].line for call in batch):
            for call in batch:
                self._call([call])
            return
        for call in batch:
            self._settle(call, EngineError("the engine failed on this recording"))

    def _settle(self, call: Call, outcome: Answer | ServiceError) -> None:
        """Hand out what was found, unless the request was cancelled meanwhile."""
        with self._changed:
            if call.future not in call.line.unsettled:
                return
            call.line.unsettled.remove(call.future)
        if isinstance(outcome, ServiceError):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)
