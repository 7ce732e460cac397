"""Committed words never change, and nothing heard behind them is lost; when a word may be committed."""

import pytest

from serve.engine import Hypothesis, TimedText
from serve.service.live.phrase import Phrase
from serve.service.live.policies import MARGIN_S, SURE_MARGIN_S, by_alignment


def heard(*words):
    """A hypothesis whose words are (text, tokens, end)."""
    timed = tuple(
        TimedText(text=text, start_s=end_s - 0.3, end_s=end_s, tokens=tokens) for text, tokens, end_s in words
    )
    tokens = tuple(token for word in timed for token in word.tokens)
    text = " ".join(word.text for word in timed)
    return Hypothesis(
        text=text, tokens=tokens, words=timed, language="mr", avg_logprob=-0.1, no_speech_prob=0.0
    )


@pytest.fixture
def phrase():
    """A phrase with one committed word of two tokens."""
    phrase = Phrase(0)
    phrase.commit(phrase.words_behind(heard(("सूर्य", (1, 2), 0.5)), 1.0), 1.0)
    return phrase


def test_a_word_that_is_joined_to_a_committed_one_is_a_word_of_its_own(phrase):
    behind = phrase.words_behind(heard(("सूर्यमावळतीला", (1, 2, 3, 4), 1.2), ("झुकला", (5,), 1.6)), 2.0)
    assert [(word.text, word.tokens) for word in behind] == [("मावळतीला", (3, 4)), ("झुकला", (5,))]
    said = phrase.commit(behind[:1], 2.0)
    assert said[0].start_s >= phrase.committed[0].word.end_s
    assert phrase.prefix == (1, 2, 3, 4)
    behind = phrase.words_behind(heard(("सूर्यमावळतीलाच", (1, 2, 3, 4, 6), 1.2), ("झुकला", (5,), 1.6)), 2.0)
    assert [word.text for word in behind] == ["च", "झुकला"]
    assert [each.word.text for each in phrase.committed] == ["सूर्य", "मावळतीला"]


@pytest.mark.parametrize("added", ["ा", "."])
def test_what_is_no_word_without_the_letter_before_it_is_left_out(phrase, added):
    behind = phrase.words_behind(heard((f"सूर्य{added}", (1, 2, 3), 0.6), ("झुकला", (5,), 1.6)), 2.0)
    assert [word.text for word in behind] == ["झुकला"]


def test_a_phrase_that_is_split_off_has_all_that_was_committed_and_the_window_keeps_its_words(phrase):
    spoken = heard(("सूर्य", (1, 2), 0.5), ("झुकला", (5,), 1.6), ("आता", (6,), 2.4))
    phrase.commit(phrase.words_behind(spoken, 2.5)[:1], 2.5)
    phrase.move_front(0, 18_000)
    over = phrase.split_off()
    assert over.segment(0).text == "सूर्य झुकला" and over.segment(0).tokens == (1, 2, 5)
    assert phrase.prefix == (5,) and not phrase.own and phrase.committed_s == 0
    behind = phrase.words_behind(heard(("झुकलाय", (5, 7), 0.5), ("आता", (6,), 1.3)), 1.4)
    assert [word.text for word in behind] == ["य", "आता"], "what is added to a word of the phrase before"
    (said, _) = phrase.commit(behind, 2.5)
    assert said.start_s >= over.segment(0).end_s
    assert phrase.segment(1).text == "य आता" and phrase.segment(1).tokens == (7, 6)


def test_a_word_near_the_end_is_committed_once_two_hypotheses_have_it():
    words = heard(("एक", (1,), 1.0), ("दोन", (2,), 2.0), ("तीन", (3,), 3.0)).words
    just_enough, sure = 2.0 + MARGIN_S, 2.0 + SURE_MARGIN_S
    assert by_alignment(words, ["एक", "दोन"], just_enough - 0.01) == 1
    assert by_alignment(words, ["एक", "दोन"], just_enough) == 2
    assert by_alignment(words, ["एक", "दोघे"], just_enough) == 1
    assert by_alignment(words, [], just_enough) == 1, "the first ends long before"
    assert by_alignment(words, [], sure) == 2
    assert by_alignment(words, ["एक", "दोन", "तीन"], 9.0) == 2, "the last may go on"
