"""Which requests come in beside others, and when a refused one should come back."""

import pytest

from serve.engine.scheduling.admission import Admission, Demand, Pace, retry_after_s
from serve.errors import Overloaded


def test_a_recording_is_refused_where_the_engine_would_be_busy_for_too_long():
    admission = Admission(max_wait_s=0.5)
    late = Demand()
    # Two seconds of sound at ten times real time, and windows that take 0.2 s: it would wait for 0.4 s.
    admission.expect(late, 60.0, [Demand(left_s=2.0)], Pace(speed=10.0, waiting_s=0.2))
    assert late.left_s == 60.0
    for others, pace in [
        ([Demand(left_s=2.0)], Pace(speed=10.0, waiting_s=0.4)),
        ([Demand(left_s=4.0)], Pace(speed=10.0, waiting_s=0.2)),
    ]:
        refused = Demand()
        with pytest.raises(Overloaded) as error:
            admission.expect(refused, 1.0, others, pace)
        assert error.value.retry_after_s == 1 and refused.left_s is None
        with pytest.raises(Overloaded):  # nor is its sound even decoded
            admission.admit(refused, others, pace)


def test_recordings_that_are_still_opened_count_as_usual_ones():
    admission, pace = Admission(max_wait_s=0.5), Pace(speed=10.0, usual_s=4.0)
    admission.admit(Demand(), [Demand()], pace)
    admission.admit(Demand(), [Demand(is_long=True), Demand(is_long=True)], pace)  # as live ones, for hours
    with pytest.raises(Overloaded):
        admission.admit(Demand(), [Demand(), Demand()], pace)


def test_an_idle_engine_takes_any_length_and_no_bound_is_the_default():
    Admission(max_wait_s=0.1).expect(Demand(), 3_600.0, [], Pace(speed=10.0))
    Admission().expect(Demand(), 1.0, [Demand(left_s=36_000.0)], Pace(speed=1.0, waiting_s=3_600.0))


def test_a_refused_client_comes_back_when_the_shortest_recording_should_be_read():
    others = [Demand(left_s=100.0), Demand(left_s=20.0), Demand()]
    assert retry_after_s(others, Pace(speed=10.0)) == 6  # 20 s at a third of ten times real time
    assert retry_after_s([], Pace(waiting_s=3.2)) == 4
    assert retry_after_s([], Pace()) == 1
