"""An endpoint: instances behind a router, and the autoscaler that adds and removes them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from serve.remote.capacity.instance import Instance, Request
from serve.remote.capacity.traffic import Recording
from serve.remote.scaling import IN_COOLDOWN_S, OUT_COOLDOWN_S

LOOK_S = 10.0
"""How often the autoscaler looks, in seconds: the period of high-resolution metrics."""

MakeInstance = Callable[[simpy.Environment], Instance]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How the number of instances follows the load."""

    target_requests: float = 4.0
    """Concurrent requests per instance that scaling aims at."""
    delay_s: float = 60.0
    """Time over which the load is averaged before the autoscaler acts, in seconds."""
    cold_start_s: float = 240.0
    """Time from the order of an instance to its first request, in seconds."""
    least: int = 1
    """Fewest instances."""
    most: int = 1
    """Most instances."""


class Endpoint:
    """Instances that start and end. A request goes to the one with the fewest, as with `shrota deploy`."""

    def __init__(self, env: simpy.Environment, make: MakeInstance, n_instances: int) -> None:
        """Start with instances that are ready."""
        self._env, self._make = env, make
        self.instances = [make(env) for _ in range(n_instances)]
        self.requests: list[Request] = []
        self.instance_s = 0.0
        """Seconds of instances, those that start included, until `settle` was called last."""
        self._n_starting = 0
        self._settled_s = env.now

    def settle(self) -> None:
        """Count the time of the instances up to now."""
        now_s = self._env.now
        self.instance_s += (now_s - self._settled_s) * (len(self.instances) + self._n_starting)
        self._settled_s = now_s

    def receive(self, recording: Recording) -> simpy.Process:
        """Route a request; return its process."""
        request = Request(recording, self._env.now)
        self.requests.append(request)
        return self._env.process(min(self.instances, key=lambda each: each.n_admitted).serve(request))

    def arrive(self, arrivals: Iterable[tuple[float, Recording]]) -> Generator[simpy.Event, Any, None]:
        """Receive recordings at their times, as a process."""
        for when_s, recording in arrivals:
            yield self._env.timeout(max(0.0, when_s - self._env.now))
            self.receive(recording)

    def follow_load(self, rules: Scaling) -> Generator[simpy.Event, Any, None]:
        """Scale by the mean number of concurrent requests, as a process that never ends."""
        seen = deque[int](maxlen=max(1, round(rules.delay_s / LOOK_S)))
        acted_s = -math.inf
        while True:
            yield self._env.timeout(LOOK_S)
            seen.append(sum(each.n_admitted for each in self.instances))
            wanted = math.ceil(sum(seen) / len(seen) / rules.target_requests)
            wanted = min(rules.most, max(rules.least, wanted))
            n = len(self.instances) + self._n_starting
            since_s = self._env.now - acted_s
            if wanted > n and since_s >= OUT_COOLDOWN_S and self._env.now >= rules.delay_s:
                self._env.process(self._start(wanted - n, rules.cold_start_s))
            elif wanted < len(self.instances) and since_s >= IN_COOLDOWN_S and self._env.now >= IN_COOLDOWN_S:
                self.settle()
                self.instances.remove(min(self.instances, key=lambda each: each.n_admitted))
            else:
                continue
            acted_s = self._env.now

    def _start(self, n_more: int, cold_start_s: float) -> Generator[simpy.Event, Any, None]:
        self.settle()
        self._n_starting += n_more
        yield self._env.timeout(cold_start_s)
        self.instances += [self._make(self._env) for _ in range(n_more)]
        self._n_starting -= n_more


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stretch of traffic came to."""

    n_requests: int
    p50_s: float
    p95_s: float
    p99_s: float
    refused: float
    """Share of the requests that got status 429."""
    in_flight: float
    """Mean number of requests in the endpoint at a time."""
    mean_instances: float
    throughput_per_s: float
    """Requests answered in a second."""


def outcome(requests: Sequence[Request], from_s: float, until_s: float, mean_instances: float) -> Outcome:
    """Sum up the requests that arrived within a stretch, some of which may be answered after it."""
    counted = [each for each in requests if from_s <= each.arrived_s < until_s]
    latencies_s = [each.latency_s for each in counted if math.isfinite(each.answered_s)]
    p50_s, p95_s, p99_s = np.percentile(latencies_s or [math.nan], [50, 95, 99]).tolist()
    in_flight_s = sum(
        max(0.0, min(each.answered_s, until_s) - max(each.arrived_s, from_s))
        for each in requests
        if not each.is_refused
    )
    answered = [each for each in requests if from_s <= each.answered_s < until_s]
    return Outcome(
        n_requests=len(counted),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        refused=sum(each.is_refused for each in counted) / max(1, len(counted)),
        in_flight=in_flight_s / (until_s - from_s),
        mean_instances=mean_instances,
        throughput_per_s=len(answered) / (until_s - from_s),
    )


def simulate(
    make: MakeInstance,
    n_instances: int,
    arrivals: Iterable[tuple[float, Recording]],
    *,
    until_s: float,
    from_s: float = 0.0,
    scaling: Scaling | None = None,
) -> Outcome:
    """Run an endpoint until every request that arrives before `until_s` is answered.

    Args:
        from_s: Requests before it warm the endpoint up and do not count.
        scaling: None keeps the number of instances.
    """
    env = simpy.Environment()
    endpoint = Endpoint(env, make, n_instances)
    env.process(endpoint.arrive(arrivals))
    if scaling is not None:
        env.process(endpoint.follow_load(scaling))
    if from_s:
        env.run(from_s)
    endpoint.settle()
    warm_s = endpoint.instance_s
    env.run(until_s)
    endpoint.settle()
    mean_instances = (endpoint.instance_s - warm_s) / (until_s - from_s)
    while any(math.isinf(each.answered_s) and not each.is_refused for each in endpoint.requests):
        env.run(env.now + LOOK_S)
    return outcome(endpoint.requests, from_s, until_s, mean_instances)
