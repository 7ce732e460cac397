from __future__ import annotations

import pytest

from bench.serving.figures import ratios, times_real_time


def test_ratios_are_taken_pair_by_pair_and_say_how_much_longer_the_others_took():
    found = ratios([2.0, 6.0, 30.0], [1.0, 2.0, 3.0])
    assert (found["quartile_1"], found["median"], found["quartile_3"]) == (2.5, 3.0, 6.5)
    assert found["of_totals"] == pytest.approx(38 / 6, abs=0.001)


def test_more_audio_in_a_second_is_faster():
    assert times_real_time(30.0, 2.0) == 15.0
