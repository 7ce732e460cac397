"""What comes next: whose turn it is, and what goes with it."""

import numpy as np
import pytest

from serve.engine import BatchSize, DecodingOptions, EngineInput
from serve.engine.fallback import Trial
from serve.engine.scheduling.fair_queue import Call, FairQueue, Line


def call(line: Line, kind: str = "any", *, encoded: bool = False, n_frames: int = 100) -> Call:
    options = DecodingOptions(language="mr", max_new_tokens=100, beam_size=2)
    log_mel = np.zeros((80, n_frames), np.float32)
    window = EngineInput(log_mel=log_mel, options=options, encoded="done" if encoded else None)
    return Call(line, window, kind, Trial(options))


def queue_of(*calls: Call, windows: int = 8, window_s: float = 100.0, target_s: float = 1e9) -> FairQueue:
    queue = FairQueue(BatchSize(windows, window_s), target_s)
    for each in calls:
        queue.put(each)
    return queue


def test_each_line_gives_one_a_round_and_what_is_put_first_comes_first():
    mine, other = Line(), Line()
    queue = queue_of(call(mine), call(mine), call(other), windows=2)
    again = call(mine)
    queue.put(again, first=True)
    assert [each.line for each in queue.next_batch(1)] == [mine, other]
    assert again not in list(queue) and len(list(queue)) == 2
    queue.drop(mine)
    assert not queue


def test_only_calls_of_one_kind_share_a_batch():
    queue = queue_of(call(Line(), "a"), call(Line(), "b"), call(Line(), "a"))
    assert [each.kind for each in queue.next_batch(1)] == ["a", "a"]
    assert [each.kind for each in queue.next_batch(1)] == ["b"]


def test_a_line_gives_its_first_call_of_the_kind_wherever_it_stands():
    line = Line()
    first, unlike, alike, later = (call(line, kind) for kind in ("a", "b", "a", "a"))
    queue = queue_of(first, unlike, alike, later, windows=2)
    assert queue.next_batch(1) == [first, alike]
    assert queue.next_batch(1) == [unlike]
    assert queue.next_batch(1) == [later] and not queue


def test_what_waits_is_shared_out_among_idle_workers():
    queue = queue_of(*(call(Line()) for _ in range(4)))
    assert [len(queue.next_batch(n_idle)) for n_idle in (2, 1)] == [2, 2]


def test_a_batch_is_bounded_by_what_the_decoder_looks_at_encoded_or_not():
    queue = queue_of(*(call(Line(), encoded=True) for _ in range(3)), window_s=2.0)
    assert len(queue.next_batch(1)) == 2


def test_what_is_encoded_already_costs_its_tokens_alone():
    queue, line = queue_of(), Line()
    fresh, again = call(line, n_frames=3_000), call(line, n_frames=3_000, encoded=True)
    language = Call(line, fresh.window, "language", None)
    assert (fresh.encoded_s, again.encoded_s, fresh.bound_tokens, language.bound_tokens) == (30, 0, 200, 0)
    expected = [queue.expected_s([each]) for each in (fresh, again, language)]
    assert expected[0] == pytest.approx(expected[1] + expected[2])
