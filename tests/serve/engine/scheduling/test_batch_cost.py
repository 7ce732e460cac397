"""What a batch is expected to take."""

import random

import pytest

from serve.engine.scheduling.batch_cost import BatchCost


@pytest.mark.parametrize(
    ("s_per_window_s", "s_per_token"), [(0.02, 0.004), (0.3, 0.05), (0.0005, 0.0001), (0.0, 0.01), (0.1, 0.0)]
)
def test_the_prices_of_any_machine_are_learned_from_some_batches(s_per_window_s, s_per_token):
    cost, rng = BatchCost(), random.Random(0)
    for _ in range(100):
        window_s, bound = rng.uniform(2, 60), rng.uniform(100, 1_000)
        n_tokens = round(0.25 * bound)
        elapsed_s = (window_s * s_per_window_s + n_tokens * s_per_token) * rng.uniform(0.9, 1.1)
        cost.learn(window_s, bound, n_tokens, elapsed_s)

    expected_s = cost.expected_s(20.0, 600.0)

    assert expected_s == pytest.approx(20 * s_per_window_s + 150 * s_per_token, rel=0.25)


def test_an_expectation_is_never_negative():
    cost, rng = BatchCost(), random.Random(1)
    for _ in range(500):
        cost.learn(rng.uniform(1, 60), rng.uniform(50, 900), rng.randrange(300), rng.expovariate(1.0))
        assert cost.expected_s(rng.uniform(1, 60), rng.uniform(50, 900)) >= 0.0


def test_a_longer_batch_is_expected_to_take_longer():
    cost = BatchCost()
    assert cost.expected_s(10.0, 200.0) < cost.expected_s(20.0, 200.0) < cost.expected_s(20.0, 400.0)


def test_one_batch_that_was_decoded_many_times_hardly_changes_what_is_expected():
    cost = BatchCost()
    for _ in range(30):
        cost.learn(10.0, 300.0, 120, 1.0)
    usual_s = cost.expected_s(10.0, 300.0)
    cost.learn(10.0, 300.0, 120, 30.0)
    assert usual_s <= cost.expected_s(10.0, 300.0) <= 1.5 * usual_s
