"""Which texts are believed, and what is tried when one is not."""

from dataclasses import replace

import pytest

from serve.engine import DecodingOptions, Hypothesis
from serve.engine.fallback import (
    FALLBACK_BEAM_SIZE,
    FALLBACK_TEMPERATURES,
    Trial,
    attempts,
    compression_ratio,
    is_believable,
)

MARATHI = "पुढच्या आठवड्यात आम्ही कोकणात जाण्याचा बेत आखलाय आणि तिथे चार दिवस राहणार आहोत"
ENGLISH = "next week we are planning to go to the coast and to stay there for four days or so"
GREEDY = DecodingOptions(language="mr")
GOOD = Hypothesis(
    tokens=(1,), text="गुपित", language="mr", language_prob=None, avg_logprob=-0.2, no_speech_prob=0.0
)
LOOPED = replace(GOOD, looped=True)


@pytest.mark.parametrize(
    ("text", "round_of_a_loop"), [(MARATHI, "शाळेत जाऊन आलो "), (ENGLISH, "the house is red ")]
)
def test_repetition_is_measured_alike_in_every_script(text, round_of_a_loop):
    assert compression_ratio(text) == pytest.approx(compression_ratio(ENGLISH), rel=0.3)
    assert compression_ratio(text) < 1.5 < 2.4 < compression_ratio(round_of_a_loop * 8)


def test_a_text_in_two_scripts_is_measured_too():
    assert 0.5 < compression_ratio("व्हिडिओ HD मध्ये 再生 करा") < 1.2
    assert compression_ratio("") == 1.0


@pytest.mark.parametrize(
    ("changes", "believed"),
    [
        ({}, True),
        ({"looped": True}, False),
        ({"truncated": True}, False),
        ({"compression_ratio": 2.5}, False),
        ({"compression_ratio": 2.5, "is_echo": True}, True),
        ({"compression_ratio": 2.5, "is_echo": True, "avg_logprob": -1.1}, False),
        ({"avg_logprob": -1.1}, False),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7}, True),  # noise, which further attempts only garnish
        ({"avg_logprob": -2.0, "text": ""}, True),
    ],
)
def test_a_text_is_believed_unless_it_loops_is_cut_off_or_guessed(changes, believed):
    assert is_believable(replace(GOOD, **changes)) is believed


def tried(options):
    return [(each.temperature, each.beam_size) for each in attempts(options)]


def test_beams_come_before_draws_and_draws_from_cold_to_hot():
    assert tried(GREEDY)[:2] == [(0.0, 1), (0.0, 5)]
    assert tried(GREEDY)[2:] == [(temperature, 1) for temperature in FALLBACK_TEMPERATURES]
    assert tried(replace(GREEDY, beam_size=FALLBACK_BEAM_SIZE))[1] == (0.2, 1)


def test_a_temperature_that_was_asked_for_is_the_only_one_tried():
    assert tried(replace(GREEDY, temperature=0.4)) == [(0.4, 1)]


def outcome(answers, options=GREEDY, **more):
    """Return what a trial that finds one answer after the other ends with, and the attempts it took."""
    trial, asked = Trial(options), []
    for answer in answers:
        asked.append((trial.options.temperature, trial.options.beam_size))
        if (best := trial.take(answer, **more)) is not None:
            return best, asked
    raise AssertionError("the trial goes on")


def test_a_window_is_tried_until_its_text_is_believed():
    found, asked = outcome([LOOPED, LOOPED, replace(GOOD, text="घर")])
    assert (found.text, found.temperature, asked) == ("घर", 0.2, [(0.0, 1), (0.0, 5), (0.2, 1)])
    found, asked = outcome([GOOD])
    assert (found.text, found.temperature, asked) == ("गुपित", 0, [(0.0, 1)])


def test_the_measure_of_repetition_is_taken_of_every_attempt():
    found, asked = outcome([replace(GOOD, text="घर " * 40), GOOD])
    assert (found.text, len(asked)) == ("गुपित", 2)
    assert found.compression_ratio == compression_ratio("गुपित")


def test_attempts_that_the_engine_cannot_make_are_left_out():
    found, asked = outcome([LOOPED, GOOD], can=lambda options: options.beam_size == 1)
    assert (found.temperature, asked) == (0.2, [(0.0, 1), (0.2, 1)])


def test_where_nothing_is_believed_the_least_bad_is_kept():
    guess = replace(GOOD, avg_logprob=-1.5)
    answers = [LOOPED, replace(GOOD, truncated=True), replace(guess, text="घर"), *[guess] * 2, *[LOOPED] * 2]
    assert outcome(answers)[0].text == "घर"
    better = [replace(guess, avg_logprob=-1.2 - n / 10, text=str(n)) for n in range(7)]
    assert outcome(better)[0].text == "0"


def test_a_drawn_text_that_fails_is_not_drawn_again():
    found, asked = outcome([LOOPED], replace(GREEDY, temperature=0.7))
    assert found.looped and found.temperature == 0.7 and len(asked) == 1


def test_of_a_draft_the_first_text_is_taken():
    assert Trial(GREEDY, is_draft=True).take(LOOPED).text == LOOPED.text
