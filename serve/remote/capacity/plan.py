"""Hours of audio a day -> instances, latency, refusals and cost.

What is simulated is a few minutes of the peak, with at most `CELL` instances. A larger endpoint counts as
many such cells: with more instances to choose from, its router does no worse. The rest of the day is
computed: the number of instances that scaling settles at follows from the mean number of requests in flight,
which is simulated once for each of some loads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import simpy

from serve.remote.capacity.endpoint import MakeInstance, Outcome, Scaling, simulate
from serve.remote.capacity.instance import Instance, Request
from serve.remote.capacity.options import CapacityOptions
from serve.remote.capacity.traffic import DAY_S, DailyCurve, Durations, manifest_durations, poisson

CELL = 8
"""Most instances that are simulated together."""
LOADS = (0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1)
"""Rates of arrivals that are simulated, relative to what an instance sustains."""
LEAST_REQUESTS = 2_000
"""Fewest requests that percentiles are taken from."""
SLOTS = 96
"""Parts of the day for which the number of instances is computed."""
_WARM_SHARE = 0.2  # of the sample, simulated before it and not counted


@dataclass(frozen=True, kw_only=True)
class VolumePlan:
    """What a number of hours a day needs."""

    hours: float
    """Hours of audio a day."""
    peak_rate_per_s: float
    """Requests in a second of the peak."""
    peak_instances: int
    """Instances at the peak."""
    mean_instances: float
    """Instances in the mean of the day."""
    peak: Outcome
    """The simulated part of the peak."""
    day_cost: float | None
    """Price of the day's instances; None without a price."""
    cost_per_hour: float | None
    """Price of an hour of audio; None without a price."""


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """How an instance does at a load."""

    load: float
    """Rate of arrivals relative to the sustainable one."""
    outcome: Outcome


class Planner:
    """Answers for one question."""

    def __init__(self, options: CapacityOptions) -> None:
        """Read the measurement and the manifest.

        Raises:
            ConfigError: One cannot be read.
        """
        self._options = options
        self._time, self.shape = options.instance()
        self._audio_s = manifest_durations(options.manifest) if options.manifest else None
        self._curve = DailyCurve(options.peak_factor)
        self.in_flight = cache(self._in_flight)

    def _durations(self, *seed: int) -> Durations:
        rng = np.random.default_rng([self._options.seed, *seed])
        return Durations(rng, self._audio_s, self._options.mean_s, self._options.spread)

    def _maker(self) -> MakeInstance:
        """Return what makes instances that differ in their seeds: 0, 1, ..."""
        seeds = itertools.count()
        return lambda env: Instance(env, self._time, self.shape, self._options.rules, seed=next(seeds))

    @cached_property
    def mean_audio_s(self) -> float:
        """Mean length of a recording, those cut to the longest that the service takes included."""
        if self._audio_s is not None:
            return float(self._audio_s.mean())
        draw = self._durations(0)
        return float(np.mean([draw().audio_s for _ in range(20_000)]))

    @cached_property
    def sustained_per_s(self) -> float:
        """Requests that an instance answers in a second when it is never without work."""
        env, draw = simpy.Environment(), self._durations(1)
        instance = self._maker()(env)
        answered: list[float] = []

        def keep_busy() -> Generator[simpy.Event, Any, None]:
            while len(answered) < LEAST_REQUESTS:
                request = Request(draw(), env.now)
                yield env.process(instance.serve(request))
                answered.append(env.now)

        n_clients = self._options.max_requests - self._options.max_requests // 4
        env.run(simpy.AllOf(env, [env.process(keep_busy()) for _ in range(n_clients)]))
        warm = LEAST_REQUESTS // 10
        return (LEAST_REQUESTS - warm) / (answered[LEAST_REQUESTS - 1] - answered[warm - 1])

    def at_load(self, load: float, n_instances: int = 1) -> Outcome:
        """Simulate instances at a constant load, relative to the sustainable one."""
        rate_per_s = load * self.sustained_per_s * n_instances
        sample_s = LEAST_REQUESTS / rate_per_s
        # The same recordings in the same order at every load, so that loads differ by nothing else.
        return self._sample(rate_per_s, sample_s, n_instances, None, (2, n_instances))

    def _sample(
        self,
        rate_per_s: float,
        sample_s: float,
        n_instances: int,
        scaling: Scaling | None,
        seed: Sequence[int],
    ) -> Outcome:
        from_s = _WARM_SHARE * sample_s
        rng, draw = np.random.default_rng([self._options.seed, 3, *seed]), self._durations(4, *seed)
        arrivals = poisson(rng, rate_per_s, from_s + sample_s, draw)
        run = partial(
            simulate, self._maker(), n_instances, arrivals, from_s=from_s, until_s=from_s + sample_s
        )
        return run(scaling=scaling)

    def load_curve(self) -> list[LoadPoint]:
        """Return how one instance does at each of the loads."""
        return [LoadPoint(load=load, outcome=self.at_load(load)) for load in LOADS]

    def _in_flight(self, n_instances: int) -> list[float]:
        """Return the mean number of requests in flight per instance at each of the loads."""
        return [self.at_load(load, n_instances).in_flight / n_instances for load in LOADS]

    def settled_instances(self, rate_per_s: float) -> int:
        """Return the number of instances that scaling settles at for a rate: the fewest within the target."""
        options = self._options
        n = options.min_instances
        while n < options.max_instances:
            cell = 1 if n < CELL else CELL
            in_flight = np.maximum.accumulate(self.in_flight(cell))
            highest = float(np.interp(options.target_requests, [0.0, *in_flight], [0.0, *LOADS]))
            needed = math.ceil(rate_per_s / (highest * self.sustained_per_s))
            if needed <= n or (cell == CELL and needed <= options.max_instances):
                return max(n, needed)
            n = min(needed, CELL) if cell == 1 else options.max_instances
        return options.max_instances

    def plan(self, hours: float) -> VolumePlan:
        """Answer for a number of hours of audio a day."""
        options = self._options
        mean_rate_per_s = hours * 3_600 / self.mean_audio_s / DAY_S
        slots = [self._curve.factor(DAY_S * slot / SLOTS) * mean_rate_per_s for slot in range(SLOTS)]
        instances = [self.settled_instances(rate) for rate in slots]
        lag_s = options.scale_delay_s + options.cold_start_s
        before = self.settled_instances(self._curve.factor(lag_s) * mean_rate_per_s)
        scale = max(1.0, instances[0] / CELL)
        scaling = Scaling(
            target_requests=options.target_requests,
            delay_s=options.scale_delay_s,
            cold_start_s=options.cold_start_s,
            least=max(1, round(options.min_instances / scale)),
            most=max(1, math.floor(options.max_instances / scale)),
        )
        rate_per_s = slots[0] / scale
        sample_s = max(options.sample_s, LEAST_REQUESTS / rate_per_s)
        n_first = max(1, round(before / scale))
        peak = self._sample(rate_per_s, sample_s, n_first, scaling, (5, round(hours)))
        mean_instances = float(np.mean(instances))
        day_cost = None if options.price is None else 24 * mean_instances * options.price
        return VolumePlan(
            hours=hours,
            peak_rate_per_s=slots[0],
            peak_instances=instances[0],
            mean_instances=mean_instances,
            peak=peak,
            day_cost=day_cost,
            cost_per_hour=None if day_cost is None else day_cost / hours,
        )
