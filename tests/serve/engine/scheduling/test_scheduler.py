"""Who is served when: bounded, fair, cancellable, and one fault is one request's."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serve.engine import CPU_BATCH, SERVED_ADAPTER, DecodingOptions, Engine, EngineInput, Hypothesis
from serve.engine.fallback import Trial
from serve.engine.scheduling.admission import Admission
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.figures import Queue
from serve.engine.scheduling.scheduler import WINDOWS_AHEAD, Scheduler
from serve.errors import EngineError, NotReady, Overloaded, RequestTimeout
from tests.waiting import wait_until


class Recorder(Engine):
    """An engine that waits for `go`, notes its batches, answers with a window's label and fails on 'bad'.

    What it hears of a window labelled 'guess' is not believed before the window is drawn at 0.4. It keeps one
    text at a time.
    """

    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.windows: list[EngineInput] = []
        self.go = threading.Semaphore(0)
        self.closed = False

    def unsupported(self, options):
        return ("beam_size", "one is kept") if options.beam_size > 1 else None

    def kind(self, window):
        return window.options.adapter, window.n_frames, window.options.temperature

    def detect_language(self, windows):
        self.batches.append(["language of " + window.options.prompt for window in windows])
        assert self.go.acquire(timeout=20)
        return [{"hi": 0.9, "mr": 0.1}] * len(windows)

    def decode(self, windows):
        self.batches.append([window.options.prompt for window in windows])
        self.windows += windows
        assert self.go.acquire(timeout=20)
        if any(window.options.prompt == "bad" for window in windows):
            raise RuntimeError("kernel")
        return [self.heard(window) for window in windows]

    def heard(self, window) -> Hypothesis:
        window.encoded = "by the encoder"
        options = window.options
        doubtful = options.prompt == "guess" and options.temperature < 0.4
        return Hypothesis(
            tokens=(1, 2),
            text=options.prompt,
            language="mr",
            avg_logprob=-2.0 if doubtful else 0.0,
            no_speech_prob=0.0,
        )

    def close(self) -> None:
        self.closed = True


def window(label: str, n_frames=300, adapter: str | None = SERVED_ADAPTER, language: str | None = "mr"):
    options = DecodingOptions(language=language, prompt=label, adapter=adapter)
    return EngineInput(log_mel=np.zeros((80, n_frames), np.float32), options=options)


@pytest.fixture
def engine():
    return Recorder()


@pytest.fixture
def make(engine):
    made = []

    def make(**limits):
        others = {"admission": Admission(max_requests=8)} | {
            name: limits.pop(name)
            for name in ("admission", "request_timeout_s", "fills_batches")
            if name in limits
        }
        # How fast this machine is shall not decide what is in a batch, but where a test says so.
        made.append(Scheduler(engine, limits=BatchLimits(**{"target_s": 1e9} | limits), **others))
        return made[-1]

    yield make
    engine.go.release(1_000)
    for scheduler in made:
        assert scheduler.close()


@pytest.fixture
def pool():
    with ThreadPoolExecutor() as pool:
        yield pool


def texts(ticket, windows):
    with ticket:
        return [hypothesis.text for hypothesis in ticket.decode(windows)]


def queued(scheduler) -> int:
    return scheduler.queue().n_waiting


def occupy(scheduler, engine, pool):
    """Let the engine begin a window, so that what comes next waits and can be looked at."""
    first = pool.submit(texts, scheduler.admit(), [window("first", 3_000)])
    wait_until(lambda: engine.batches)
    return first


def test_hypotheses_come_in_the_order_of_the_windows(make, engine):
    engine.go.release(100)
    labels = [str(number) for number in range(3 * WINDOWS_AHEAD)]
    assert texts(make().admit(), map(window, labels)) == labels


def test_what_goes_wrong_in_finding_windows_comes_after_those_that_were_found(make, engine):
    def windows():
        yield from (window(str(number)) for number in range(3))
        raise ValueError("damage")

    engine.go.release(100)
    heard = []
    with make().admit() as ticket, pytest.raises(ValueError, match="damage"):
        for hypothesis in ticket.decode(windows()):
            heard.append(hypothesis.text)
    assert heard == ["0", "1", "2"]


def test_a_short_clip_does_not_wait_for_a_long_recording(make, engine, pool):
    scheduler = make(max_windows=1)
    occupy(scheduler, engine, pool)
    long = pool.submit(texts, scheduler.admit(), [window(f"long {n}") for n in range(6)])
    wait_until(lambda: queued(scheduler) == 6)
    short = pool.submit(texts, scheduler.admit(), [window("short")])
    wait_until(lambda: queued(scheduler) == 7)
    engine.go.release(100)
    assert short.result() == ["short"]
    assert long.result() == [f"long {n}" for n in range(6)]
    assert engine.batches.index(["short"]) == 2


def test_a_newcomer_waits_for_one_batch_however_many_long_recordings_are_before_it(make, engine, pool):
    scheduler = make(max_windows=2)
    occupy(scheduler, engine, pool)
    for name in "abc":
        pool.submit(texts, scheduler.admit(), [window(f"{name}{n}") for n in range(6)])
        wait_until(lambda name=name: queued(scheduler) == 6 * ("abc".index(name) + 1))
    for n_batches in (2, 3, 4, 5):
        engine.go.release()
        wait_until(lambda n=n_batches: len(engine.batches) == n)
    short = pool.submit(texts, scheduler.admit(), [window("short", 200)])
    wait_until(lambda: "short" in waiting_labels(scheduler))
    engine.go.release(100)
    assert short.result() == ["short"]
    assert engine.batches[5] == ["short"]


def waiting_labels(scheduler) -> set[str]:
    with scheduler._changed:
        return {call.window.options.prompt for call in scheduler._waiting}


def test_a_request_that_had_nothing_to_do_saved_no_time_up(make, engine, pool):
    scheduler = make(max_windows=1)
    engine.go.release(6)
    idle = scheduler.admit()
    assert texts(scheduler.admit(), [window(f"early {n}") for n in range(6)])
    occupy_with = pool.submit(texts, scheduler.admit(), [window(f"other {n}") for n in range(4)])
    wait_until(lambda: queued(scheduler) == 3)
    late = pool.submit(texts, idle, [window(f"late {n}") for n in range(4)])
    wait_until(lambda: queued(scheduler) == 7)
    engine.go.release(100)
    assert occupy_with.result() and late.result()
    order = [label.split()[0] for (label,) in engine.batches[6:]]
    for end in range(1, 9):  # what is paid for a window is an expectation, so the turns need not alternate
        assert order[:end].count("late") - order[:end].count("other") <= 2


def test_windows_of_several_requests_share_a_batch(make, engine, pool):
    scheduler = make(max_windows=4)
    occupy(scheduler, engine, pool)
    for name in "abc":
        pool.submit(texts, scheduler.admit(), [window(f"{name}{n}") for n in range(2)])
        wait_until(lambda name=name: queued(scheduler) == 2 * ("abc".index(name) + 1))
    engine.go.release(100)
    wait_until(lambda: not scheduler.n_admitted)
    assert [sorted(batch) for batch in engine.batches[1:]] == [["a0", "a1", "b0", "c0"], ["b1", "c1"]]


def test_offline_an_idle_engine_waits_for_windows_that_fill_a_batch(make, engine):
    engine.go.release(1_000)
    lengths = [300, 400, 500] * 4
    labels = [f"{number}" for number in range(12)]
    with make(fills_batches=True).admit() as ticket:
        inputs = [window(*each) for each in zip(labels, lengths, strict=True)]
        assert [hypothesis.text for hypothesis in ticket.decode(inputs)] == labels
    assert engine.batches == [labels[first::3] for first in range(3)]


def test_offline_a_request_that_ends_is_not_waited_for(make, engine, pool):
    scheduler = make(fills_batches=True)
    engine.go.release(1_000)
    without_windows = scheduler.admit()
    decoding = pool.submit(texts, scheduler.admit(), [window("alone")])
    without_windows.close()
    assert decoding.result(20) == ["alone"]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (window("other", 600), "its length is another"),
        (window("other", adapter=None), "it wants the base model alone"),
    ],
)
def test_unlike_windows_do_not_share_a_batch(make, engine, pool, other, why):
    scheduler = make()
    occupy(scheduler, engine, pool)
    pool.submit(texts, scheduler.admit(), [window("this")])
    pool.submit(texts, scheduler.admit(), [other])
    wait_until(lambda: queued(scheduler) == 2)
    engine.go.release(100)
    wait_until(lambda: not scheduler.n_admitted)
    assert sorted(engine.batches[1:]) == [["other"], ["this"]], why


def test_a_batch_is_bounded_in_seconds(make, engine, pool):
    scheduler = make(max_batch_s=7.0)
    occupy(scheduler, engine, pool)
    pool.submit(texts, scheduler.admit(), [window(str(n), 300) for n in range(5)])
    wait_until(lambda: queued(scheduler) == 5)
    engine.go.release(100)
    wait_until(lambda: not scheduler.n_admitted)
    assert [len(batch) for batch in engine.batches] == [1, 2, 2, 1]


def test_a_batch_is_bounded_by_the_time_it_is_expected_to_take(make, engine, pool):
    # Before anything is learned, a window of 3 s with up to 224 tokens is expected to take about a second.
    scheduler = make(target_s=2.5)
    occupy(scheduler, engine, pool)
    pool.submit(texts, scheduler.admit(), [window(str(n), 300) for n in range(5)])
    wait_until(lambda: queued(scheduler) == 5)
    assert scheduler.queue().waiting_s == pytest.approx(5 * (0.09 + 0.9), rel=0.05)
    assert len(scheduler._waiting.next_batch(1)) == 2
    scheduler.cancel_all(NotReady("leaving"))
    engine.go.release(100)


def test_the_queue_tells_what_waits_and_what_runs(make, engine, pool):
    scheduler = make(max_windows=1)
    idle = Queue(n_workers=1)
    assert scheduler.queue() == idle
    occupy(scheduler, engine, pool)
    done = pool.submit(texts, scheduler.admit(), [window(str(n)) for n in range(3)])
    wait_until(lambda: queued(scheduler) == 3)
    queue = scheduler.queue()
    assert (queue.n_admitted, queue.n_waiting, queue.n_running) == (2, 3, 1)
    assert queue.waiting_s > 0
    engine.go.release(100)
    assert done.result()
    wait_until(lambda: scheduler.queue() == idle)


def test_a_request_whose_time_is_over_ends_although_the_engine_is_busy(make, engine, pool):
    scheduler = make(request_timeout_s=0.3)
    with pytest.raises(RequestTimeout, match=r"limit of 0\.3 s"):
        texts(scheduler.admit(), [window("slow")])
    assert scheduler.queue().n_admitted == 0
    engine.go.release(100)
    assert texts(scheduler.admit(), [window("next")]) == ["next"]


def test_work_between_windows_ends_with_the_request_too(make):
    scheduler = make(request_timeout_s=0.05)
    ticket = scheduler.admit()
    time.sleep(0.1)
    with pytest.raises(RequestTimeout):
        ticket.check()
    cancelled = scheduler.admit()
    cancelled.check()
    cancelled.cancel(NotReady("leaving"))
    with pytest.raises(NotReady, match="leaving"):
        cancelled.check()


def test_windows_are_made_only_a_few_ahead(make, engine, pool):
    made = []

    def windows():
        for number in range(100):
            made.append(number)
            yield window(str(number))

    done = pool.submit(texts, make(max_windows=1).admit(), windows())
    wait_until(lambda: len(made) == WINDOWS_AHEAD)
    time.sleep(0.1)
    assert len(made) == WINDOWS_AHEAD
    engine.go.release(1_000)
    assert len(done.result()) == 100


def test_requests_over_the_limit_are_refused_until_a_place_is_free(make):
    scheduler = make(admission=Admission(max_requests=2))
    tickets = [scheduler.admit(), scheduler.admit()]
    with pytest.raises(Overloaded) as refused:
        scheduler.admit()
    assert refused.value.retry_after_s >= 1
    tickets[0].close()
    tickets[0].close()
    scheduler.admit()
    with pytest.raises(Overloaded):
        scheduler.admit()


def test_a_cancelled_request_wakes_at_once_and_its_windows_never_reach_the_engine(make, engine, pool):
    scheduler = make(max_windows=1)
    occupy(scheduler, engine, pool)
    ticket = scheduler.admit()
    waiting = pool.submit(texts, ticket, [window(f"dropped {n}") for n in range(5)])
    wait_until(lambda: queued(scheduler) == 5)
    ticket.cancel(NotReady("leaving"))
    with pytest.raises(NotReady, match="leaving"):
        waiting.result(timeout=20)
    assert scheduler.n_admitted == 1
    engine.go.release(100)
    assert texts(scheduler.admit(), [window("next")]) == ["next"]
    assert engine.batches == [["first"], ["next"]]


def test_a_request_cancelled_while_the_engine_is_at_it_wakes_at_once_too(make, engine, pool):
    scheduler = make()
    ticket = scheduler.admit()
    waiting = pool.submit(texts, ticket, [window("running")])
    wait_until(lambda: engine.batches)
    ticket.cancel()
    with pytest.raises(NotReady):
        waiting.result(timeout=20)
    engine.go.release(100)
    assert texts(scheduler.admit(), [window("next")]) == ["next"]


def test_a_fault_of_the_engine_fails_its_own_request_only(make, engine, pool):
    scheduler = make()
    occupy(scheduler, engine, pool)
    bad = pool.submit(texts, scheduler.admit(), [window("bad")])
    good = pool.submit(texts, scheduler.admit(), [window("good")])
    wait_until(lambda: queued(scheduler) == 2)
    engine.go.release(100)
    assert good.result() == ["good"]
    with pytest.raises(EngineError) as failed:
        bad.result()
    assert "kernel" not in str(failed.value)
    assert texts(scheduler.admit(), [window("later")]) == ["later"]


def test_an_engine_that_hangs_is_not_alive(make, engine, pool):
    scheduler = make()
    assert scheduler.is_alive(stuck_after_s=0.05)
    occupy(scheduler, engine, pool)
    wait_until(lambda: not scheduler.is_alive(stuck_after_s=0.05))
    assert scheduler.is_alive(stuck_after_s=100)
    engine.go.release(100)


def test_closing_refuses_newcomers_wakes_those_inside_and_frees_the_engine(engine, pool):
    scheduler = Scheduler(engine)
    waiting = pool.submit(texts, scheduler.admit(), [window("running")])
    wait_until(lambda: engine.batches)
    assert not scheduler.close(timeout_s=0.05)  # the engine is in a batch
    with pytest.raises(NotReady):
        waiting.result(timeout=20)
    with pytest.raises(NotReady):
        scheduler.admit()
    engine.go.release(100)
    assert scheduler.close()
    assert engine.closed


def enqueue(scheduler, ticket, label):
    given = window(label)
    return scheduler._enqueue(ticket, given, Trial(given.options))


def test_a_text_that_is_not_believed_is_tried_again_before_what_its_request_waits_for(make, engine, pool):
    scheduler = make(max_windows=1)
    engine.go.release(1)
    done = pool.submit(texts, scheduler.admit(), [window("guess"), window("next")])
    wait_until(lambda: len(engine.batches) == 2)
    other = pool.submit(texts, scheduler.admit(), [window("other")])
    wait_until(lambda: queued(scheduler) == 2)
    engine.go.release(100)
    assert done.result() == ["guess", "next"] and other.result() == ["other"]
    order = [label for (label,) in engine.batches]
    assert order.count("guess") == 3 and order.index("next") > 2, "0, 0.2 and 0.4; never with more beams"
    assert [each.options.temperature for each in engine.windows if each.options.prompt == "guess"] == [
        *(0.0, 0.2, 0.4)
    ]
    assert order.index("other") < order.index("next"), "further attempts take a request's own time"
    assert [bool(each.encoded) for each in engine.windows] == [True] * 5
    totals = scheduler.totals()
    assert (totals.n_windows, totals.n_batches, totals.n_tokens, totals.n_fallbacks) == (3, 5, 6, 1)
    assert totals.window_s == 9.0, "a window is encoded once"


def test_a_request_that_is_cancelled_is_not_tried_again(make, engine, pool):
    scheduler = make()
    ticket = scheduler.admit()
    waiting = pool.submit(texts, ticket, [window("guess")])
    wait_until(lambda: engine.batches)
    ticket.cancel(NotReady("leaving"))
    with pytest.raises(NotReady):
        waiting.result(timeout=20)
    engine.go.release(100)
    assert texts(scheduler.admit(), [window("next")]) == ["next"]
    assert engine.batches == [["guess"], ["next"]]


def test_languages_are_detected_in_batches_of_their_own(make, engine, pool):
    scheduler = make()
    occupy(scheduler, engine, pool)
    found = [pool.submit(detected, scheduler.admit(), window(label, language=None)) for label in "ab"]
    text = pool.submit(texts, scheduler.admit(), [window("text")])
    wait_until(lambda: queued(scheduler) == 3)
    engine.go.release(100)
    assert [each.result() for each in found] == [[{"hi": 0.9, "mr": 0.1}]] * 2 and text.result() == ["text"]
    assert sorted(map(sorted, engine.batches[1:])) == [["language of a", "language of b"], ["text"]]
    assert scheduler.totals().n_windows == 2, "those that were decoded"


def detected(ticket, window):
    with ticket:
        return ticket.detect_languages([window])


def test_a_draft_is_a_first_attempt_and_no_window_of_the_totals(make, engine):
    scheduler = make()
    engine.go.release(100)
    with scheduler.admit() as ticket:
        drafts = ticket.draft([window("guess"), window("other")])
    assert [(each.text, each.avg_logprob) for each in drafts] == [("guess", -2.0), ("other", 0.0)]
    assert sum(len(batch) for batch in engine.batches) == 2 and scheduler.totals().n_windows == 0


def test_an_engine_that_somebody_else_owns_is_left_open(engine):
    with Scheduler(engine, frees_engine=False) as scheduler:
        engine.go.release()
        assert texts(scheduler.admit(), [window("only")]) == ["only"]
    assert not engine.closed and not any(thread.is_alive() for thread in scheduler._threads)


def test_several_workers_decode_batches_side_by_side_and_share_what_waits(engine):
    engine.n_workers = 2
    scheduler = Scheduler(engine, limits=BatchLimits(target_s=1e9))
    try:
        with scheduler.admit() as blocker, scheduler.admit() as ticket:
            futures = [enqueue(scheduler, blocker, "first")]
            wait_until(lambda: len(engine.batches) == 1)
            with scheduler._changed:  # all come at once
                futures += [enqueue(scheduler, ticket, str(number)) for number in range(4)]
            wait_until(lambda: len(engine.batches) == 2)  # though the first batch still runs
            assert engine.batches[0] == ["first"] and scheduler.queue().n_running == 5
            engine.go.release(2)
            assert [future.result(20).text for future in futures] == ["first", "0", "1", "2", "3"]
            with scheduler._changed:
                futures = [enqueue(scheduler, ticket, str(number)) for number in range(4)]
            wait_until(lambda: len(engine.batches) == 4)
            assert engine.batches[2:] == [["0", "1"], ["2", "3"]]
            assert scheduler.is_alive(20) and not scheduler.is_alive(0)
            engine.go.release(2)
            assert [future.result(20).text for future in futures] == ["0", "1", "2", "3"]
    finally:
        engine.go.release(10)
        assert scheduler.close(20) and engine.closed
