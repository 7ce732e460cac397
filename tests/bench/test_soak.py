"""The slope of memory over requests, from samples whose growth is known."""

import numpy as np

from bench.soak import slope_of


def test_growth_is_told_from_noise():
    noise = np.random.default_rng(0).normal(0, 2, 100)
    flat = slope_of([(10 * n, 900 + noise[n]) for n in range(100)])
    assert flat["holds_zero"] and abs(flat["kib_per_request"]) < 2
    grown = slope_of([(10 * n, 900 + noise[n] + 0.05 * 10 * n) for n in range(100)])  # 50 MiB over the run
    assert not grown["holds_zero"] and 45 < grown["kib_per_request"] < 57
