"""One instance: requests are admitted, prepared on the cores, and decoded in batches by the engine."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simpy

from serve.audio.samples import FRAMES_PER_S
from serve.engine import BatchSize, DecodingOptions, EngineInput
from serve.engine.fallback import Trial
from serve.engine.scheduling.admission import Admission, Demand, Pace
from serve.engine.scheduling.fair_queue import BatchLimits, Call, FairQueue, Line
from serve.engine.scheduling.scheduler import WINDOWS_AHEAD
from serve.errors import Overloaded
from serve.pipeline import SPARE_TOKENS, TOKENS_PER_S
from serve.remote.capacity.service_time import STRETCH_S, ServiceTime, Shape
from serve.remote.capacity.traffic import Recording

LONG_BYTES = 1 << 20
"""A request with a larger body counts as long; `SMALL_BYTES` of the service."""
_NO_TIME_S = 1e-9


class Cores:
    """Cores that all work shares equally: with more work than cores, each piece slows down."""

    def __init__(
        self, env: simpy.Environment, cores: float, draw_slowness: Callable[[], float] = lambda: 1.0
    ) -> None:
        """Start without work.

        Args:
            draw_slowness: Returns how many times as long all work takes in the next `STRETCH_S`.
        """
        self._env, self._cores = env, cores
        self._draw_slowness, self._slowness = draw_slowness, draw_slowness()
        self._changes_s = env.now + STRETCH_S  # when the slowness does
        self._served_s, self._updated_s = 0.0, 0.0  # work that each piece has had, and when that was
        self._ends: list[tuple[float, int, simpy.Event]] = []  # by the `_served_s` at which they end
        self._numbers = itertools.count()
        self._plan = 0  # a wake-up with an earlier number is void

    def work(self, work_s: float) -> simpy.Event:
        """Return an event that happens once this much work is done."""
        self._update()
        done = self._env.event()
        heapq.heappush(self._ends, (self._served_s + work_s, next(self._numbers), done))
        self._wake_later()
        return done

    def _pace(self) -> float:
        return min(1.0, self._cores / len(self._ends)) / self._slowness

    def _update(self) -> None:
        if self._ends:
            self._served_s += (self._env.now - self._updated_s) * self._pace()
        self._updated_s = self._env.now
        while self._changes_s <= self._env.now + _NO_TIME_S:
            self._slowness = self._draw_slowness()
            self._changes_s += STRETCH_S

    def _wake_later(self) -> None:
        self._plan += 1
        if self._ends:
            plan = self._plan
            left_s = max(0.0, self._ends[0][0] - self._served_s) / self._pace()
            wait_s = min(left_s, self._changes_s - self._env.now)
            self._env.timeout(wait_s).callbacks.append(lambda _: self._wake(plan))

    def _wake(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._update()
        while self._ends and self._ends[0][0] <= self._served_s + _NO_TIME_S:
            heapq.heappop(self._ends)[2].succeed()
        self._wake_later()


@dataclass(eq=False, kw_only=True)
class SimulatedCall(Call):
    """A window without sound, whose number of tokens is known."""

    n_tokens: int
    done: simpy.Event


@dataclass
class Request:
    """What became of a request."""

    recording: Recording
    arrived_s: float
    answered_s: float = math.inf
    """When its text was complete; infinite while it is not."""
    is_refused: bool = False

    @property
    def latency_s(self) -> float:
        """Seconds from its arrival to its complete text."""
        return self.answered_s - self.arrived_s


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The settings of the service that decide who waits; their defaults are the service's."""

    admission: Admission
    largest_batch: BatchSize | None = None
    """None takes the engine's usual limit."""
    bytes_per_audio_s: float = 32_000.0
    """Bytes of a second of the recordings' sound: a body above 1 MiB gets none of the kept places."""


class Instance:
    """A service in an environment."""

    def __init__(
        self, env: simpy.Environment, time: ServiceTime, shape: Shape, rules: Rules, seed: int = 0
    ) -> None:
        """Start idle; `seed` fixes the tokens of recordings and the machine's speed, where they differ."""
        self._env, self._time, self._rules = env, time, rules
        self._rng = np.random.default_rng(seed)
        draw = partial(self._draw, time.speed_spread)
        self._cores = Cores(env, shape.cores, draw)
        self._engine = Cores(env, 1.0, draw) if shape.on_gpu else self._cores
        limits = BatchLimits()
        self._queue = FairQueue(rules.largest_batch or limits.largest(shape.largest_batch), limits.target_s)
        self._n_workers = self._n_idle = shape.n_workers
        self._admitted: set[Demand] = set()
        self.n_batches, self.n_windows = 0, 0

    @property
    def n_admitted(self) -> int:
        """Requests admitted and not finished."""
        return len(self._admitted)

    def serve(self, request: Request) -> Generator[simpy.Event, Any, None]:
        """Serve a request from its arrival to its text, as a process of the environment."""
        audio_s = request.recording.audio_s
        demand = Demand(is_long=audio_s * self._rules.bytes_per_audio_s > LONG_BYTES)
        try:
            self._rules.admission.admit(demand, self._admitted, Pace())
            self._rules.admission.expect(demand, audio_s, self._admitted, Pace())
        except Overloaded:
            request.is_refused = True
            return
        self._admitted.add(demand)
        yield self._cores.work(self._time.request_s)
        line, ahead = Line(), deque[simpy.Event]()
        pieces = self._time.speech_pieces_s(audio_s)
        tokens = self._tokens(request.recording, len(pieces))
        for speech_s, n_tokens in zip(pieces, tokens, strict=True):
            yield self._cores.work(self._time.prepare_s_per_audio_s * audio_s / len(pieces))
            ahead.append(self._enqueue(line, speech_s, n_tokens))
            while ahead and (ahead[0].processed or len(ahead) >= WINDOWS_AHEAD * self._n_workers):
                yield ahead.popleft()
                demand.left_s = (demand.left_s or 0.0) - audio_s / len(pieces)
        yield from ahead
        self._admitted.discard(demand)
        request.answered_s = self._env.now

    def _tokens(self, recording: Recording, n_windows: int) -> Sequence[int]:
        """Return the number of tokens of each window, the recording's own or drawn ones divided evenly."""
        total = recording.n_tokens
        if total is None:
            usual = self._time.tokens_per_s * self._time.speech_share * recording.audio_s
            total = round(usual * self._draw(self._time.tokens_spread))
        return [total * (n + 1) // n_windows - total * n // n_windows for n in range(n_windows)]

    def _draw(self, spread: float) -> float:
        """Return a factor with a mean of 1."""
        return float(self._rng.lognormal(-(spread**2) / 2, spread))

    def _enqueue(self, line: Line, speech_s: float, n_tokens: int) -> simpy.Event:
        n_frames = round(self._time.window_s(speech_s) * FRAMES_PER_S)
        options = DecodingOptions(max_new_tokens=math.ceil(speech_s * TOKENS_PER_S) + SPARE_TOKENS)
        window = EngineInput(log_mel=np.empty((0, n_frames), np.float32), options=options)
        call = SimulatedCall(
            line, window, n_frames, Trial(options), n_tokens=n_tokens, done=self._env.event()
        )
        self._queue.put(call)
        self._dispatch()
        return call.done

    def _dispatch(self) -> None:
        """Give idle workers a batch each, while windows wait."""
        while self._n_idle and len(self._queue):
            batch = [each for each in self._queue.next_batch(self._n_idle) if isinstance(each, SimulatedCall)]
            self._n_idle -= 1
            self._env.process(self._decode(batch))

    def _decode(self, batch: Sequence[SimulatedCall]) -> Generator[simpy.Event, Any, None]:
        started_s, tokens = self._env.now, [each.n_tokens for each in batch]
        window_s = [each.window_s for each in batch]
        yield self._engine.work(self._time.batch_work_s(window_s, tokens))
        bound = sum(each.bound_tokens for each in batch)
        self._queue.cost.learn(sum(window_s), bound, sum(tokens), self._env.now - started_s)
        self.n_batches += 1
        self.n_windows += len(batch)
        for each in batch:
            each.done.succeed()
        self._n_idle += 1
        self._dispatch()
