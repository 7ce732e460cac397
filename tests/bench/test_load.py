"""The figures of the load test, from answers whose times are known."""

from bench.load import figures_of, throughput


def test_figures_tell_the_accepted_from_the_refused_and_when_throughput_is_back():
    steady = [(0.5 * n, 0.4, 200) for n in range(20)]  # two a second for ten seconds
    overload = [(0.1 * n, 0.8, 200) if n % 4 == 0 else (0.1 * n, 0.01, 429) for n in range(400)]
    slow_at_first = [(0.0, 2.4, 200), *((2.5 + 0.5 * n, 0.4, 200) for n in range(15))]
    answers = {"alone": steady, "sustainable": steady, "before": steady}
    figures = figures_of({**answers, "overload": overload, "after": slow_at_first}, seconds=40.0)
    assert (figures["unloaded_p95_s"], figures["sustainable_per_s"]) == (0.4, 2.0)
    assert (figures["accepted_p95_s"], figures["accepted_p95_over_unloaded"]) == (0.8, 2.0)
    assert (figures["refused_p95_s"], figures["statuses"]) == (0.01, {"200": 100, "429": 300})
    assert figures["full_throughput_after_s"] == 2.0  # its five seconds hold all but the first


def test_throughput_counts_the_transcripts_that_end_within_the_span():
    answers = [(0.0, 1.0, 200), (0.5, 0.1, 429), (1.5, 1.0, 200), (9.0, 2.0, 200)]
    assert throughput(answers, 10.0) == 0.2
    assert throughput(answers, 2.0, begin_s=1.0) == 1.0
