"""Live sessions that outlive the connection of their client.

A run is a session at work, with its events numbered from 1. A client that lost its connection comes back with
the run's token and the number of its last event, and misses nothing: words and phrases are kept to the end. A
run that nobody comes back to is abandoned. Knows no socket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from serve.errors import UnknownSession
from serve.transcript.events import LiveDone, LiveEvent, LiveWords

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them while /ping answers
    from serve.service.live.session import LiveSession
    from serve.service.place import Place

KEPT_S = 30.0
"""Time in which a client that lost its connection can come back, in seconds."""

Emitted = Callable[[Callable[[Callable[[LiveEvent], None]], None]], AsyncIterator[LiveEvent]]
"""Runs work in a thread and yields what it emits; `Service.in_thread`."""


@dataclass
class _Kept:
    """An event that a client may still ask for."""

    number: int
    event: LiveEvent
    n: int = 1
    """How often it happened in a row, the last time as `number`: a client may wish for the same all day."""


@dataclass(eq=False)
class LiveRun:
    """One session at work, whoever listens."""

    session: LiveSession
    place: Place
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    n_received: int = 0
    """Bytes of sound received; a client that comes back goes on behind them."""
    n_events: int = 0
    listener: int = 0
    """Changes when another connection takes over."""
    leaving: asyncio.TimerHandle | None = None
    """Abandons the run, unless its client comes back."""
    error: BaseException | None = None
    is_over: bool = False
    on_over: Callable[[LiveRun], None] = lambda run: None
    _kept: deque[_Kept] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _working: asyncio.Task[None] | None = None

    def begin(self, in_thread: Emitted) -> None:
        """Start the session's thread."""
        self._working = asyncio.ensure_future(self._work(in_thread))

    async def _work(self, in_thread: Emitted) -> None:
        try:
            async for event in in_thread(self.session.run):
                self._keep(event)
                self._wake()
        except BaseException as error:
            self.error = error
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.place.close()
            self.is_over = True
            self.on_over(self)
            self._wake()

    def _keep(self, event: LiveEvent) -> None:
        self.n_events += 1
        if self._kept and _is_passing(self._kept[-1].event):
            self._kept.pop()  # the new event replaces its partial text
        last = self._kept[-1] if self._kept else None
        is_next = last is not None and last.number == self.n_events - 1
        if last is not None and is_next and isinstance(event, LiveDone) and event == last.event:
            last.number, last.n = self.n_events, last.n + 1
        else:
            self._kept.append(_Kept(self.n_events, event))

    def hear(self, data: bytes) -> bool:
        """Pass sound on; False means: send no more before the session has room."""
        self.n_received += len(data)
        return self.session.hear(data)

    async def events(self, after: int = 0) -> AsyncIterator[tuple[int, LiveEvent]]:
        """Yield the events behind number `after`, with their numbers, until the session is over.

        Ends early where another connection takes over.

        Raises:
            ServiceError: The session broke off.
        """
        mine = self.listener
        while self.listener == mine:
            if newer := self._behind(after):
                for kept in newer:
                    for number in range(max(after, kept.number - kept.n) + 1, kept.number + 1):
                        yield number, kept.event
                        after = number
            elif self.is_over:
                if self.error is not None:
                    raise self.error
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def _behind(self, after: int) -> list[_Kept]:
        """Return what is kept behind a number, found from the end: hours of events may lie before it."""
        newer = list(takewhile(lambda kept: kept.number > after, reversed(self._kept)))
        return newer[::-1]

    def forget(self, until: int) -> None:
        """Drop the events up to a number: nobody comes back for them."""
        while self._kept and self._kept[0].number <= until:
            self._kept.popleft()

    def take_over(self) -> None:
        """Let a new connection listen; the one before it, if any, ends."""
        self.listener += 1
        if self.leaving is not None:
            self.leaving.cancel()
            self.leaving = None
        self._wake()

    async def abandon(self) -> None:
        """End the session, drop what was queued, and wait for its thread."""
        self.session.abandon()
        if self._working is not None:
            with suppress(Exception):
                await asyncio.shield(self._working)

    def _wake(self) -> None:
        self._changed.set()


def _is_passing(event: LiveEvent) -> bool:
    """Tell whether an event has nothing that a later one does not replace."""
    return isinstance(event, LiveWords) and not event.committed


class LiveRuns:
    """The runs that clients may come back to."""

    def __init__(self, max_left: int) -> None:
        """Keep at most `max_left` runs whose clients are gone."""
        self._max_left = max_left
        self._runs: dict[str, LiveRun] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def open(
        self,
        session: LiveSession,
        place: Place,
        in_thread: Emitted,
        on_over: Callable[[LiveRun], None] = lambda run: None,
    ) -> LiveRun:
        """Start a session's work; when it is over, its place is closed and `on_over` called."""
        run = LiveRun(session, place, on_over=on_over)
        run.begin(in_thread)
        self._runs[run.token] = run
        return run

    def resume(self, token: str) -> LiveRun:
        """Return the run of a client that comes back.

        Raises:
            UnknownSession: There is no such run, or no longer.
        """
        run = self._runs.get(token)
        if run is None:
            raise UnknownSession
        run.take_over()
        return run

    def leave(self, run: LiveRun, listener: int) -> None:
        """Keep a run whose connection broke, for a while; unless another connection took over."""
        if run.listener != listener or self._runs.get(run.token) is not run:
            return
        left = [each for each in self._runs.values() if each.leaving is not None]
        if len(left) >= self._max_left:
            self._give_up(left[0])
        run.leaving = asyncio.get_running_loop().call_later(KEPT_S, partial(self._give_up, run))

    async def close(self, run: LiveRun, listener: int) -> None:
        """End a run for good, unless another connection took over."""
        if run.listener == listener and self._runs.pop(run.token, None) is not None:
            await run.abandon()

    @property
    def all(self) -> list[LiveRun]:
        return list(self._runs.values())

    def _give_up(self, run: LiveRun) -> None:
        if run.leaving is not None:
            run.leaving.cancel()
        if self._runs.pop(run.token, None) is not None:
            task = asyncio.ensure_future(run.abandon())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
