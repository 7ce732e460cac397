"""The simulator against queueing theory: Erlang's and Pollaczek and Khinchine's formulas, Little's law."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import simpy

from serve.engine import BatchSize
from serve.engine.scheduling.admission import Admission
from serve.http.door.body import SMALL_BYTES
from serve.remote.capacity.endpoint import Endpoint, outcome, simulate
from serve.remote.capacity.instance import LONG_BYTES, Cores, Instance, Request, Rules
from serve.remote.capacity.service_time import ServiceTime, Shape
from serve.remote.capacity.traffic import Recording, poisson

TOKENS_PER_S = 10_000
"""Tokens are the only work, so that a recording's number of tokens is its service time."""
ONLY_TOKENS = ServiceTime(
    request_s=0,
    prepare_s_per_audio_s=0,
    batch_s=0,
    s_per_window_s=0,
    s_per_token=1 / TOKENS_PER_S,
    shared=0,
)
N_REQUESTS = 20_000
"""At a load of 70 % the mean of so many waits has a standard error of 3 %."""


def serve(load, draw_s, *, n_workers=1, max_requests=10_000, seed=0):
    """Simulate Poisson arrivals whose service takes a second on average; return the outcome."""
    rng = np.random.default_rng(seed)
    rules = Rules(admission=Admission(max_requests=max_requests), largest_batch=BatchSize(1, 32.0))
    shape = Shape(n_workers=n_workers, cores=n_workers)
    until_s = N_REQUESTS / (load * n_workers)
    arrivals = poisson(
        rng, load * n_workers, until_s, lambda: Recording(1.0, max(1, round(draw_s(rng) * TOKENS_PER_S)))
    )
    return simulate(lambda env: Instance(env, ONLY_TOKENS, shape, rules), 1, arrivals, until_s=until_s)


def exponential(rng):
    return rng.exponential()


def always_a_second(rng):
    return 1.0


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_random_service_waits_as_in_m_m_1(load):
    found = serve(load, exponential)
    assert found.in_flight == pytest.approx(load / (1 - load), rel=0.08)
    assert found.p50_s == pytest.approx(math.log(2) / (1 - load), rel=0.08)
    assert found.p95_s == pytest.approx(math.log(20) / (1 - load), rel=0.08)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_constant_service_waits_as_in_m_d_1(load):
    expected_s = 1 + load / (2 * (1 - load))  # Pollaczek and Khinchine
    found = serve(load, always_a_second)
    assert found.in_flight / load == pytest.approx(expected_s, rel=0.05)


def test_two_workers_wait_as_in_m_m_2():
    load = 0.7
    expected_s = 1 / (1 - load**2)  # Erlang C for two servers
    found = serve(load, exponential, n_workers=2)
    assert found.in_flight / (2 * load) == pytest.approx(expected_s, rel=0.05)


def test_a_full_instance_refuses_as_in_m_m_1_k():
    load, places = 0.9, 4
    expected = (1 - load) * load**places / (1 - load ** (places + 1))
    found = serve(load, exponential, max_requests=places)
    assert found.refused == pytest.approx(expected, rel=0.08)


def test_shared_cores_slow_all_work_down_as_in_m_d_1_with_processor_sharing():
    load, n = 0.6, 10_000
    rng, env, latencies_s = np.random.default_rng(0), simpy.Environment(), []
    cores = Cores(env, 1.0)

    def job():
        began_s = env.now
        yield cores.work(1.0)
        latencies_s.append(env.now - began_s)

    def arrive():
        for gap_s in rng.exponential(1 / load, n):
            yield env.timeout(gap_s)
            env.process(job())

    env.process(arrive())
    env.run()
    assert len(latencies_s) == n
    assert np.mean(latencies_s) == pytest.approx(1 / (1 - load), rel=0.05)


def test_two_pieces_of_work_on_one_and_a_half_cores_take_a_third_longer():
    env = simpy.Environment()
    cores = Cores(env, 1.5)
    env.run(cores.work(3.0) & cores.work(3.0))
    assert env.now == pytest.approx(4.0)


def test_a_large_endpoint_obeys_littles_law():
    rng, rate_per_s, until_s = np.random.default_rng(1), 6.0, 2_000.0
    rules = Rules(admission=Admission(max_requests=16, n_kept_for_short=4))
    env = simpy.Environment()
    endpoint = Endpoint(env, lambda env: Instance(env, ServiceTime(), Shape(), rules), 4)
    env.process(
        endpoint.arrive(poisson(rng, rate_per_s, until_s, lambda: Recording(float(rng.lognormal(2)))))
    )
    seen = []

    def look():
        while env.now < until_s:
            yield env.timeout(0.5)
            seen.append(sum(each.n_admitted for each in endpoint.instances))

    env.process(look())
    env.run(until_s + 600)
    answered = [each for each in endpoint.requests if not each.is_refused]
    mean_latency_s = np.mean([each.latency_s for each in answered])
    assert np.mean(seen) == pytest.approx(len(answered) / until_s * mean_latency_s, rel=0.03)
    assert outcome(endpoint.requests, 0, until_s, 4).in_flight == pytest.approx(np.mean(seen), rel=0.03)


def test_windows_of_one_length_share_a_batch_and_others_do_not():
    def batches(*lengths_s):
        env = simpy.Environment()
        rules = Rules(admission=Admission())
        instance = Instance(env, ONLY_TOKENS, Shape(n_workers=1, cores=1), rules)
        for each in (9.0, *lengths_s):  # the first keeps the worker busy while the others come
            env.process(instance.serve(_request(env, each)))
        env.run()
        return instance.n_windows - instance.n_batches

    assert batches(5.0, 5.0, 5.0) == 2
    assert batches(3.0, 5.0, 7.0) == 0


def _request(env, audio_s):
    return Request(Recording(audio_s, 1_000), env.now)


def test_long_requests_leave_places_to_short_ones():
    env = simpy.Environment()
    rules = Rules(admission=Admission(max_requests=4, n_kept_for_short=2))
    instance = Instance(env, ServiceTime(), Shape(), rules)
    long, short = ([_request(env, audio_s) for _ in range(4)] for audio_s in (600.0, 5.0))
    for each in (*long, *short):
        env.process(instance.serve(each))
    env.run()
    assert [each.is_refused for each in long] == [False, False, True, True]
    assert [each.is_refused for each in short] == [False, False, True, True]


def test_a_long_body_is_what_the_service_calls_long():
    assert LONG_BYTES == SMALL_BYTES


def test_a_machine_whose_speed_differs_does_as_much_but_keeps_requests_waiting_longer():
    def outcomes(spread):
        time = dataclasses.replace(ONLY_TOKENS, speed_spread=spread)
        rules = Rules(admission=Admission(max_requests=10_000), largest_batch=BatchSize(1, 32.0))
        shape = Shape(n_workers=1, cores=1)
        rng = np.random.default_rng(0)
        arrivals = poisson(rng, 7.0, 3_000, lambda: Recording(1.0, TOKENS_PER_S // 10))
        return simulate(lambda env: Instance(env, time, shape, rules), 1, arrivals, until_s=3_000)

    steady, unsteady = outcomes(0.0), outcomes(0.2)
    assert unsteady.throughput_per_s == pytest.approx(steady.throughput_per_s, rel=0.01)
    assert unsteady.p50_s == pytest.approx(steady.p50_s, rel=0.25)
    assert unsteady.p95_s > 1.5 * steady.p95_s


def test_recordings_whose_tokens_differ_have_the_usual_ones_in_the_mean():
    time = dataclasses.replace(ServiceTime(), tokens_spread=0.3)
    instance = Instance(simpy.Environment(), time, Shape(), Rules(admission=Admission()))
    drawn = [sum(instance._tokens(Recording(4.0), 1)) for _ in range(4_000)]
    assert np.mean(drawn) == pytest.approx(time.tokens_per_s * time.speech_share * 4.0, rel=0.02)
    assert np.std(np.log(drawn)) == pytest.approx(0.3, rel=0.05)
