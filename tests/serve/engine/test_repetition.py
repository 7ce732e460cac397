"""Loops in greedy decoding, and what is no loop."""

import pytest

from serve.engine.repetition import MAX_PERIOD_TOKENS, MIN_LOOP_TOKENS, RepetitionWatch, Run, find_run


def stopped_at(tokens: list[int]) -> tuple[int, int] | None:
    """Return after how many tokens the watch stops, and how many it keeps."""
    watch = RepetitionWatch()
    for n_seen, token in enumerate(tokens, start=1):
        if (n_kept := watch.push(token)) is not None:
            return n_seen, n_kept
    return None


@pytest.mark.parametrize("period", [1, 2, 7, 20, MAX_PERIOD_TOKENS])
def test_a_loop_of_any_period_is_cut_to_its_first_round(period):
    before = list(range(1000, 1010))
    stopped = stopped_at(before + list(range(period)) * 100)
    assert stopped is not None
    n_seen, n_kept = stopped
    assert n_kept == len(before) + period
    assert n_seen - len(before) == max(MIN_LOOP_TOKENS, 4 * period)


def test_text_without_a_loop_is_left_alone():
    assert stopped_at([n * n % 997 for n in range(440)]) is None


def test_a_word_said_three_times_is_no_loop():
    word = [3, 1, 4, 1, 5, 9, 2]
    assert stopped_at([8, *word * 3, 6, *range(20, 60)]) is None


def test_laughter_of_short_syllables_is_no_loop():
    assert stopped_at([7, 8, 9] * 12 + [1]) is None


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("हो हो हो", None),
        ("हो हो हो हो", Run(0, 1, 4)),
        ("मी नाही, नाही, Nahi नाही नाही नाही! नाही. येणार", Run(4, 1, 4)),
        ("a b a b a b a b a c", Run(0, 2, 4)),
        ("x a b c a b c a b c a b c y y y y", Run(1, 3, 4)),
        ("", None),
    ],
)
def test_a_run_is_a_phrase_said_at_least_four_times_in_a_row_whatever_its_punctuation(text, run):
    assert find_run(text.split()) == run
