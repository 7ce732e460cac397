"""One admitted request: its place, its deadline, and its windows on their way to the engine."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from serve.engine import EngineInput, Hypothesis, LanguageProbs
from serve.engine.fallback import Trial
from serve.engine.scheduling.admission import Demand
from serve.engine.scheduling.fair_queue import Line
from serve.errors import NotReady, RequestTimeout, ServiceError

if TYPE_CHECKING:
    from serve.engine.scheduling.scheduler import Scheduler


class Ticket(AbstractContextManager["Ticket"]):
    """One admitted request. Leaving the context frees its place and drops its waiting windows."""

    def __init__(self, scheduler: Scheduler, timeout_s: float, demand: Demand) -> None:
        """Made by `Scheduler.admit` only."""
        self._scheduler = scheduler
        self.demand = demand
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.line = Line()  # the scheduler's lock guards this and `error`
        self.error: ServiceError | None = None

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        """Yield a hypothesis for every window, in order. Reads a few windows ahead.

        Raises:
            RequestTimeout: The request's deadline has passed.
            ServiceError: The engine failed on a window, or the ticket was cancelled with that error.
            Exception: What `inputs` raises, once the windows before it are decoded.
        """
        source = iter(inputs)
        ahead: deque[Future[Hypothesis]] = deque()
        fault: Exception | None = None
        while True:
            # The next window takes time to find, so yield a finished hypothesis first.
            if not (ahead and ahead[0].done()) and len(ahead) < self._scheduler.windows_ahead:
                try:
                    window = next(source, None)
                except Exception as error:  # raised once the windows before it are yielded
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
        """Return the language probabilities of each window. Raises what `decode` raises."""
        asked = [self._scheduler._enqueue(self, window, None) for window in windows]
        return [self._result(future) for future in asked]

    def expect(self, audio_s: float) -> None:
        """Note how much sound the request has brought, in seconds.

        Raises:
            Overloaded: There is too much of others.
        """
        self._scheduler._expect(self, audio_s)

    def draft(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        """Return each window's first hypothesis, believable or not. Raises what `decode` raises."""
        asked = [self._scheduler._enqueue(self, each, Trial(each.options, is_draft=True)) for each in windows]
        return [self._result(future) for future in asked]

    def check(self) -> None:
        """Raise if the request has ended; for long work between windows, such as finding speech.

        Raises:
            RequestTimeout: The request's deadline has passed.
            ServiceError: The ticket was cancelled with that error.
        """
        if self.error is not None:
            raise self.error
        if time.monotonic() >= self._deadline:
            self._time_out()

    def _result(self, future: Future[Any]) -> Any:
        left_s = None if math.isinf(self._deadline) else max(0.0, self._deadline - time.monotonic())
        try:
            with self._scheduler._idle():
                return future.result(left_s)
        except TimeoutError:
            self._time_out()

    def _time_out(self) -> NoReturn:
        error = RequestTimeout(self._timeout_s)
        self.cancel(error)
        raise error

    def cancel(self, error: ServiceError | None = None) -> None:
        """Drop the windows of this request and wake its thread. Thread-safe and idempotent.

        A running batch is finished, but its result for this request is discarded.
        """
        self._scheduler._cancel(self, error or NotReady("the request was cancelled"))

    def close(self) -> None:
        """Cancel the request and free its place. Idempotent."""
        self.cancel()
        self._scheduler._release(self)

    def __exit__(self, *error: object) -> None:
        self.close()
