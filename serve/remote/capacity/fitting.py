"""Fit an instance to a measurement of a real service: clips sent alone, by clients, and at random times.

The prices of work come from the clips sent alone. How many cores' worth of work gets done at a time, and how
much of a batch's work its windows share, show only where requests meet: both are chosen so that simulated
clients get what the real ones got, and that requests at random times take as long.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from scipy.optimize import brentq, minimize, nnls

from serve.engine.scheduling.admission import Admission
from serve.remote.capacity.instance import Instance, Request, Rules
from serve.remote.capacity.service_time import ServiceTime, Shape
from serve.remote.capacity.traffic import Recording


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A clip that was sent while the service did nothing else."""

    audio_s: float
    latency_s: float
    """Seconds from its request to its answer."""
    busy_s: float
    """Seconds of it that the engine decoded."""
    window_s: float
    """Seconds of window encoded, padding included."""
    n_tokens: int
    n_batches: int

    @property
    def recording(self) -> Recording:
        """The clip in the model."""
        return Recording(self.audio_s, self.n_tokens)


def fit_prices(alone: Sequence[Alone], *, dynamic: bool, margin_s: float) -> ServiceTime:
    """Return the prices of work, by least squares with no price below zero."""
    busy_s = np.array([each.busy_s for each in alone])
    amounts = np.array([(each.n_batches, each.window_s, each.n_tokens) for each in alone], float)
    batch_s, s_per_window_s, s_per_token = nnls(amounts, busy_s)[0].tolist()
    rest_s = np.array([max(0.0, each.latency_s - each.busy_s) for each in alone])
    request_s, prepare_s = nnls(np.array([(1.0, each.audio_s) for each in alone]), rest_s)[0].tolist()
    time = ServiceTime(
        request_s=request_s,
        prepare_s_per_audio_s=prepare_s,
        batch_s=batch_s,
        s_per_window_s=s_per_window_s,
        s_per_token=s_per_token,
        tokens_per_s=sum(each.n_tokens for each in alone) / sum(each.audio_s for each in alone),
        tokens_spread=float(np.std([math.log(max(1, each.n_tokens) / each.audio_s) for each in alone])),
        dynamic=dynamic,
        margin_s=margin_s,
    )
    share = _speech_share(time, alone)
    return dataclasses.replace(time, speech_share=share, tokens_per_s=time.tokens_per_s / share)


def _speech_share(time: ServiceTime, alone: Sequence[Alone]) -> float:
    """Return the share of speech with which the model cuts as many seconds of window as the service did."""
    measured_s = sum(each.window_s for each in alone)

    def surplus_s(share: float) -> float:
        model = dataclasses.replace(time, speech_share=share)
        cut_s = sum(
            model.window_s(speech_s) for each in alone for speech_s in model.speech_pieces_s(each.audio_s)
        )
        return cut_s - measured_s

    if not time.dynamic or surplus_s(1.0) <= 0:
        return 1.0
    return float(brentq(surplus_s, 0.1, 1.0, xtol=1e-3)) if surplus_s(0.1) < 0 else 0.1


@dataclass(frozen=True, kw_only=True)
class Clients:
    """What some clients got, each of which sent its next clip after an answer."""

    n_clients: int
    clips: Sequence[Recording]
    """What they sent, in this order."""
    measured_s: float
    """Seconds until the last answer."""

    def simulated_s(self, time: ServiceTime, shape: Shape) -> float:
        """Return how long it takes in the model."""
        return clients_s(time, shape, self.clips, self.n_clients)


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """How long requests took that came at random times."""

    rate_per_s: float
    arrivals: Sequence[tuple[float, Recording]]
    """When each came, in seconds, and what it was."""
    measured_s: float
    """Their mean latency, in seconds."""

    def simulated_s(self, time: ServiceTime, shape: Shape) -> float:
        """Return their mean latency in the model."""
        return mean_latency_s(time, shape, self.arrivals)


def fit_concurrency(
    time: ServiceTime, shape: Shape, clients: Sequence[Clients], arrivals: Sequence[Arrivals] = ()
) -> tuple[ServiceTime, Shape]:
    """Choose the cores, and the share of a batch's work that its windows share.

    Each number of clients counts once, and so does each rate of arrivals: by the logarithm of simulated over
    measured seconds.

    Args:
        shape: Has as many cores as threads.
    """
    groups: dict[tuple[type, float], list[Clients | Arrivals]] = defaultdict(list)
    for each in clients:
        groups[Clients, each.n_clients].append(each)
    for came in arrivals:
        groups[Arrivals, came.rate_per_s].append(came)

    def model(cores: float, shared: float) -> tuple[ServiceTime, Shape]:
        steady = dataclasses.replace(time, shared=shared, speed_spread=0.0)
        return steady, dataclasses.replace(shape, cores=cores)

    def misfit(point: Sequence[float]) -> float:
        modelled = model(*map(float, point))
        ratios = (
            sum(each.simulated_s(*modelled) for each in group) / sum(each.measured_s for each in group)
            for group in groups.values()
        )
        return sum(math.log(ratio) ** 2 for ratio in ratios)

    bounds = [(0.5, max(1.0, shape.cores)), (0.0, 1.0)]
    starts = itertools.product(np.linspace(*bounds[0], 5).tolist(), (0.1, 0.5, 0.9))
    start = min(starts, key=misfit)
    found = minimize(misfit, start, method="Nelder-Mead", bounds=bounds, options={"maxfev": 60})
    fitted, fitted_shape = model(*found.x.tolist())
    return dataclasses.replace(fitted, speed_spread=time.speed_spread), fitted_shape


def clients_s(time: ServiceTime, shape: Shape, clips: Sequence[Recording], n_clients: int) -> float:
    """Simulate clients, each of which sends its next clip after an answer; return the seconds it takes."""
    env = simpy.Environment()
    instance = Instance(env, time, shape, Rules(admission=Admission(max_requests=n_clients)))
    left = iter(clips)

    def client() -> Generator[simpy.Event, Any, None]:
        for clip in left:
            yield env.process(instance.serve(Request(clip, env.now)))

    env.run(simpy.AllOf(env, [env.process(client()) for _ in range(n_clients)]))
    return float(env.now)


def mean_latency_s(time: ServiceTime, shape: Shape, arrivals: Sequence[tuple[float, Recording]]) -> float:
    """Simulate requests that come at their times, none of which is refused; return their mean latency."""
    env = simpy.Environment()
    instance = Instance(env, time, shape, Rules(admission=Admission(max_requests=len(arrivals))))
    requests = [Request(recording, when_s) for when_s, recording in arrivals]

    def arrive(request: Request) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(request.arrived_s)
        yield env.process(instance.serve(request))

    env.run(simpy.AllOf(env, [env.process(arrive(each)) for each in requests]))
    return float(np.mean([each.latency_s for each in requests]))
