"""Which texts are believed, and what is tried when one is not."""

from dataclasses import replace

import pytest

from serve.engine import DecodingOptions, Hypothesis
from serve.engine.fallback import (
    FALLBACK_BEAM_SIZE,
    FALLBACK_TEMPERATURES,
    Attempt,
    attempts,
    compression_ratio,
    decode_until_believed,
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
        ({"avg_logprob": -1.1}, False),
        ({"avg_logprob": -1.1, "no_speech_prob": 0.7}, True),  # noise, which further attempts only garnish
        ({"avg_logprob": -2.0, "text": ""}, True),
    ],
)
def test_a_text_is_believed_unless_it_loops_is_cut_off_or_guessed(changes, believed):
    assert is_believable(replace(GOOD, **changes)) is believed


def test_beams_come_before_draws_and_draws_from_cold_to_hot():
    tried = list(attempts(GREEDY))
    assert tried[:2] == [Attempt(temperature=0.0, beam_size=1), Attempt(temperature=0.0, beam_size=5)]
    assert [attempt.temperature for attempt in tried[2:]] == list(FALLBACK_TEMPERATURES)
    assert all(attempt.beam_size == 1 for attempt in tried[2:])
    assert Attempt(temperature=0.0, beam_size=5) not in attempts(GREEDY, beams=False)
    assert list(attempts(replace(GREEDY, beam_size=FALLBACK_BEAM_SIZE)))[1].temperature == 0.2


def test_a_temperature_that_was_asked_for_is_the_only_one_tried():
    assert list(attempts(replace(GREEDY, temperature=0.4))) == [Attempt(temperature=0.4, beam_size=1)]


class Scripted:
    """Answers each row with one hypothesis after the other, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = [iter(each) for each in answers]
        self.asked = []

    def __call__(self, rows, options):
        self.asked.append((rows, [(option.temperature, option.beam_size) for option in options]))
        return [next(self.answers[row]) for row in rows]


def test_only_the_rows_that_are_not_believed_are_decoded_again():
    engine = Scripted([GOOD], [LOOPED, LOOPED, replace(GOOD, text="घर")], [GOOD])
    found = decode_until_believed([GREEDY] * 3, engine)
    assert engine.asked == [([0, 1, 2], [(0.0, 1)] * 3), ([1], [(0.0, 5)]), ([1], [(0.2, 1)])]
    assert [(each.text, each.temperature) for each in found] == [("गुपित", 0), ("घर", 0.2), ("गुपित", 0)]


def test_the_measure_of_repetition_is_taken_of_every_attempt():
    engine = Scripted([replace(GOOD, text="घर " * 40), GOOD])
    (found,) = decode_until_believed([GREEDY], engine, beams=False)
    assert (found.text, found.temperature) == ("गुपित", 0.2)
    assert found.compression_ratio == compression_ratio("गुपित")


def test_where_nothing_is_believed_the_least_bad_is_kept():
    guess = replace(GOOD, avg_logprob=-1.5)
    engine = Scripted(
        [LOOPED, replace(GOOD, truncated=True), replace(guess, text="घर"), *[guess] * 2, *[LOOPED] * 2]
    )
    better = Scripted([replace(guess, avg_logprob=-1.2 - n / 10, text=str(n)) for n in range(7)])
    assert decode_until_believed([GREEDY], engine)[0].text == "घर"
    assert decode_until_believed([GREEDY], better)[0].text == "0"


def test_a_drawn_text_that_fails_is_not_drawn_again():
    engine = Scripted([LOOPED])
    (found,) = decode_until_believed([replace(GREEDY, temperature=0.7)], engine)
    assert found.looped and found.temperature == 0.7 and len(engine.asked) == 1
