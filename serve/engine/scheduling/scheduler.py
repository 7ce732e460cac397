"""Schedule the windows of all requests as engine calls: bounded, fair and cancellable. Knows no HTTP.

    with scheduler.admit() as ticket:                 # admission control: raises Overloaded before any work
        for hypothesis in ticket.decode(inputs): ...  # from any thread; in order

Each engine worker has a thread that decodes batch after batch, in the order that
`serve.engine.scheduling.fair_queue` decides. A window whose hypothesis is not believable
(`serve.engine.fallback`) is queued again, ahead of its request's other windows.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from serve.engine import Engine, EngineInput, Health, Hypothesis, LanguageProbs, tracing
from serve.engine.fallback import Trial
from serve.engine.scheduling.admission import Admission, Demand, Pace
from serve.engine.scheduling.fair_queue import BatchLimits, Call, FairQueue
from serve.engine.scheduling.figures import Queue, Totals
from serve.engine.scheduling.ticket import Ticket
from serve.errors import EngineError, EngineLost, NotReady, ServiceError

WINDOWS_AHEAD = 8
"""Windows of one request that exist at a time for each worker; the features of each take up to 1 MB. Where
batches are filled, four times as many do."""

USUAL_SHARE = 0.1
"""Weight of the latest request in the mean of what requests bring."""

Answer = Hypothesis | LanguageProbs
"""The hypothesis of a window, or its language probabilities."""

LANGUAGE = "language"
"""Batching key of language detection."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Running:
    n_windows: int
    started: float


class Scheduler(AbstractContextManager["Scheduler"]):
    """Calls an engine from its own threads."""

    def __init__(
        self,
        engine: Engine,
        *,
        admission: Admission | None = None,
        request_timeout_s: float = math.inf,
        limits: BatchLimits | None = None,
        frees_engine: bool = True,
        fills_batches: bool = False,
    ) -> None:
        """Start a thread for each of the engine's workers.

        Args:
            engine: Only these threads decode with it from now on.
            admission: Bounds on what is admitted.
            request_timeout_s: Time that a request has from its admission, in seconds.
            frees_engine: Whether the last thread to end closes the engine.
            fills_batches: Whether a worker waits for a full batch while any request may still add windows:
                offline, where all requests are read without a pause.
        """
        self._engine = engine
        self._admission = admission or Admission()
        self._request_timeout_s = request_timeout_s
        self._frees_engine = frees_engine
        self._n_idle = 0  # requests that wait for hypotheses, and add no window meanwhile
        limits = limits or BatchLimits()
        self._changed = threading.Condition()
        self._admitted: set[Ticket] = set()
        self._waiting = FairQueue(limits.largest(engine.usual_batch), limits.target_s)
        self._totals = Totals()
        self._usual_s = 0.0
        self._closing = False
        self._running: dict[int, _Running] = {}  # by thread
        self._n_workers = max(1, engine.n_workers)
        self.windows_ahead = (4 if fills_batches else 1) * WINDOWS_AHEAD * self._n_workers
        self._enough = self.windows_ahead // 2 if fills_batches else 1  # windows, to choose a batch from
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name=f"engine-{worker}", daemon=True)
            for worker in range(self._n_workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_admitted(self) -> int:
        """Requests admitted and not finished."""
        return len(self._admitted)

    def queue(self) -> Queue:
        with self._changed:
            return Queue(
                n_admitted=len(self._admitted),
                n_waiting=len(self._waiting),
                waiting_s=self._waiting_s(),
                n_running=sum(running.n_windows for running in self._running.values()),
                n_workers=self._n_workers,
                n_busy_workers=len(self._running),
            )

    def totals(self) -> Totals:
        return self._totals

    def is_alive(self, stuck_after_s: float) -> bool:
        """Tell whether all threads run, and no batch has run longer than `stuck_after_s` seconds."""
        oldest = time.monotonic() - stuck_after_s
        return all(thread.is_alive() for thread in self._threads) and all(
            running.started > oldest for running in list(self._running.values())
        )

    @property
    def is_ready(self) -> bool:
        """Whether the engine takes calls now."""
        return self._engine.is_ready

    def health(self) -> Health:
        """Return how the engine fares."""
        return self._engine.health()

    def admit(self, *, is_long: bool = False) -> Ticket:
        """Admit a request; long ones leave some places to short ones.

        Raises:
            Overloaded: All places are taken; holds the time after which to retry.
            NotReady: The scheduler is closing.
        """
        with self._changed:
            if self._closing:
                raise NotReady("the service is shutting down")
            demand = Demand(is_long)
            self._admission.admit(demand, [each.demand for each in self._admitted], self._pace())
            ticket = Ticket(self, self._request_timeout_s, demand)
            self._admitted.add(ticket)
            return ticket

    def _expect(self, ticket: Ticket, audio_s: float) -> None:
        with self._changed:
            others = [each.demand for each in self._admitted if each is not ticket]
            self._admission.expect(ticket.demand, audio_s, others, self._pace())
            if not ticket.demand.is_long:
                self._usual_s += (audio_s - self._usual_s) * (USUAL_SHARE if self._usual_s else 1.0)

    def _pace(self) -> Pace:
        done = self._totals
        speed = done.window_s / done.busy_s * self._n_workers if done.busy_s else 1.0
        return Pace(speed=speed, waiting_s=self._waiting_s(), usual_s=self._usual_s)

    def cancel_all(self, error: ServiceError) -> None:
        for ticket in list(self._admitted):
            ticket.cancel(error)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Refuse new requests, fail the admitted ones, and stop the threads.

        Returns:
            Whether the threads have ended; False if a batch still runs after `timeout_s` seconds.
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
        self.close()

    def _waiting_s(self) -> float:
        return sum(self._waiting.expected_s([call]) for call in self._waiting)

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Count a request as waiting for its hypotheses."""
        with self._changed:
            self._n_idle += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._n_idle -= 1

    def _has_batch(self) -> bool:
        """Tell whether a batch is due: enough windows wait, or no request can add any."""
        n_waiting = len(self._waiting)
        return n_waiting > 0 and (n_waiting >= self._enough or self._n_idle >= len(self._admitted))

    def _enqueue(self, ticket: Ticket, window: EngineInput, trial: Trial | None) -> Future[Any]:
        """Queue the decoding of a window, or with no `trial` its language detection."""
        kind = LANGUAGE if trial is None else self._engine.kind(window)
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
            self._changed.notify_all()

    def _run(self, worker: int) -> None:
        """Decode batch after batch until closed; the last thread to end closes the engine."""
        while True:
            with self._changed:
                while not self._has_batch() and not self._closing:
                    self._changed.wait()
                if self._closing:
                    self._n_workers -= 1
                    is_last = self._n_workers == 0
                    break
                batch = self._waiting.next_batch(self._n_workers - len(self._running))
                self._running[threading.get_ident()] = _Running(len(batch), time.monotonic())
            self._call(batch)
            with self._changed:
                del self._running[threading.get_ident()]
        if is_last and self._frees_engine:
            self._engine.close()

    def _call(self, batch: Sequence[Call]) -> None:
        """Call the engine with a batch and distribute the results. Never raises."""
        started = time.monotonic()
        windows, encoded_s = [call.window for call in batch], sum(call.encoded_s for call in batch)
        found: list[Answer] = []
        try:
            is_language = batch[0].kind == LANGUAGE
            with tracing.batch(call.waiting for call in batch):
                found += (self._engine.detect_language if is_language else self._engine.decode)(windows)
        except EngineLost as error:
            self._repeat(batch, error)
            return
        except Exception as error:
            self._fail(batch, error)
            return
        busy_s = time.monotonic() - started
        with self._changed:
            if encoded_s:  # retries of encoded windows say little about the price of a window
                bound_tokens = sum(call.bound_tokens for call in batch)
                n_tokens = sum(len(each.tokens) for each in found if isinstance(each, Hypothesis))
                self._waiting.cost.learn(encoded_s, bound_tokens, n_tokens, busy_s)
            self._totals += Totals(n_batches=1, window_s=encoded_s, busy_s=busy_s)
        for call, each in zip(batch, found, strict=True):
            try:
                self._take(call, each)
            except EngineLost as error:
                self._repeat([call], error)
            except Exception as error:
                self._fail([call], error)

    def _take(self, call: Call, found: Answer) -> None:
        """Settle a call, or queue the window's next attempt ahead of its request's other windows."""
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
                n_windows=not call.trial.is_draft, n_tokens=len(best.tokens), n_fallbacks=call.trial.is_drawn
            )
        self._settle(call, best)

    def _fail(self, batch: Sequence[Call], error: Exception) -> None:
        """Fail only the request whose window makes the engine fail: retry the batch call by call first."""
        _log.error("engine.failed", n_windows=len(batch), error=type(error).__name__, exc_info=error)
        with self._changed:
            self._totals += Totals(n_failures=1)
        if any(call.line is not batch[0].line for call in batch):
            for call in batch:
                self._call([call])
            return
        for call in batch:
            self._settle(call, EngineError("the engine failed on this recording"))

    def _repeat(self, batch: Sequence[Call], error: EngineLost) -> None:
        """Decode the windows of a lost process once more, each alone: only one that ends it again fails."""
        with self._changed:
            self._totals += Totals(n_failures=1)
        for call in batch:
            if call.is_repeated:
                self._settle(call, error)
                continue
            call.is_repeated, call.window.encoded = True, None
            if call.future in call.line.unsettled:
                with self._changed:  # the time of what was lost says nothing about this process
                    self._running[threading.get_ident()] = _Running(1, time.monotonic())
                self._call([call])

    def _settle(self, call: Call, outcome: Answer | ServiceError) -> None:
        """Complete the call's future, unless its request was cancelled meanwhile."""
        with self._changed:
            if call.future not in call.line.unsettled:
                return
            call.line.unsettled.remove(call.future)
        if isinstance(outcome, ServiceError):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)
