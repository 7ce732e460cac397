"""Two texts of overlapping windows: nothing twice, nothing lost."""

from __future__ import annotations

import random

import pytest

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import Span, Window
from serve.engine import Hypothesis, TimedText
from serve.transcript.joining import Heard, join


def window(start_s: float, end_s: float) -> Window:
    start, end = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
    return Window(start, end, (Span(start, end),))


def heard(
    words: list[tuple[str, float, float]], start_s: float, end_s: float, *, timed: bool, **more
) -> Heard:
    """Return words in recording time as what was heard in a window."""
    texts = [
        TimedText(
            text=f" {text}",
            start_s=first_s - start_s,
            end_s=last_s - start_s,
            tokens=tuple(map(ord, text)),
        )
        for text, first_s, last_s in words
    ]
    hypothesis = Hypothesis(
        tokens=tuple(token for text in texts for token in text.tokens),
        text=" ".join(text for text, _, _ in words),
        language="mr",
        avg_logprob=-0.3,
        no_speech_prob=0.0,
        words=tuple(texts) if timed else (),
        **more,
    )
    return Heard.whole(window(start_s, end_s), hypothesis)


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.4) -> list[tuple[str, float, float]]:
    words = text.split()
    return [(word, start_s + n * word_s, start_s + (n + 1) * word_s) for n, word in enumerate(words)]


def joined(earlier: Heard, later: Heard) -> str:
    first, second = join(earlier, later)
    assert later.start_s <= first.end_s == second.start_s <= earlier.end_s
    assert first.start_s == earlier.start_s and second.end_s == later.end_s
    return f"{first.hypothesis.text} {second.hypothesis.text}".strip()


TEXT = "आज सकाळी बाजारात जाऊन मी भाजी आणि फळे विकत घेतली मग घरी आलो आणि चहा प्यायलो"


@pytest.mark.parametrize("timed", [True, False])
def test_words_that_both_heard_are_written_once(timed):
    words = spoken(TEXT)
    cut_s = 4.0  # at a border of words
    earlier = heard(words[:10], 0, cut_s, timed=timed)
    later = heard(words[6:], 2.4, 6.4, timed=timed)
    assert joined(earlier, later) == TEXT


@pytest.mark.parametrize("timed", [True, False])
def test_a_word_that_was_cut_is_taken_from_where_it_is_whole(timed):
    words = spoken(TEXT)
    torn = [*words[:9], ("घे", 3.6, 3.8)]
    begun = [("णि", 2.6, 2.8), *words[7:]]
    assert joined(heard(torn, 0, 3.8, timed=timed), heard(begun, 2.6, 6.4, timed=timed)) == TEXT


def test_words_that_are_spelt_otherwise_are_still_the_same_words():
    words = spoken(TEXT)
    otherwise = {"आणि": "आनी", "फळे": "फळं", "विकत": "वीकत", "घेतली": "घेतलि"}
    later = [(otherwise.get(text, text), first_s, last_s) for text, first_s, last_s in words[6:]]
    found = joined(heard(words[:10], 0, 4.0, timed=True), heard(later, 2.4, 6.4, timed=True)).split()
    assert len(found) == len(words)
    assert found[:6] == TEXT.split()[:6] and found[10:12] == TEXT.split()[10:12]


def test_texts_that_agree_on_nothing_are_parted_by_their_times():
    earlier = heard(spoken("a b c d e f g h i j"), 0, 4.0, timed=True)
    later = heard(spoken("p q r s t u v w", 2.4), 2.4, 5.6, timed=True)
    assert joined(earlier, later) == "a b c d e f g h r s t u v w"


@pytest.mark.parametrize("n_words", [20, 40])
def test_a_word_said_again_and_again_is_counted_by_its_times(n_words):
    words = spoken(" ".join(["हो"] * n_words), word_s=0.3)
    cut = n_words // 2
    earlier = heard(words[:cut], 0, words[cut - 1][2], timed=True)
    later_s = words[cut - 6][1]
    slightly_off = [(text, first_s + 0.04, last_s + 0.04) for text, first_s, last_s in words[cut - 6 :]]
    later = heard(slightly_off, later_s, words[-1][2], timed=True)
    assert joined(earlier, later).split() == ["हो"] * n_words


def test_a_common_word_is_not_taken_for_the_same_word_elsewhere():
    words = spoken("तो आणि मी आणि ती आणि राजू आणि सीमा आणि गेलो आणि आलो")
    earlier = heard(words[:9], 0, 3.6, timed=True)
    later = heard(words[5:], 2.0, 5.2, timed=True)
    assert joined(earlier, later) == " ".join(text for text, _, _ in words)


@pytest.mark.parametrize(("first", "second"), [("नाही", "दुसरे काही"), ("एक दोन तीन चार", "चार"), ("हो", "हो")])
def test_short_texts_are_joined_too(first, second):
    earlier = heard(spoken(first, 2.6), 0, 4.2, timed=True)
    later = heard(spoken(second, 3.8), 2.6, 5.0, timed=True)
    found = joined(earlier, later).split()
    assert set(found) == set(first.split()) | set(second.split())
    assert len(found) == len(set(found)) or first == second


def test_languages_without_spaces_are_parted_between_letters():
    text = "今日は天気がいいから散歩に行きましょうね"
    letters = [(letter, 0.3 * n, 0.3 * (n + 1)) for n, letter in enumerate(text)]

    def in_japanese(part, start_s, end_s):
        hypothesis = Hypothesis(
            tokens=(1,),
            text="".join(letter for letter, _, _ in part),
            language="ja",
            avg_logprob=-0.3,
            no_speech_prob=0.0,
        )
        return Heard.whole(window(start_s, end_s), hypothesis)

    first, second = join(in_japanese(letters[:12], 0, 3.6), in_japanese(letters[6:], 1.8, 6.0))
    assert first.hypothesis.text + second.hypothesis.text == text


def test_tokens_words_and_sentences_are_parted_where_the_text_is():
    words = spoken(TEXT)
    sentences = (
        TimedText(text=" " + " ".join(TEXT.split()[:5]), start_s=0.0, end_s=2.0, tokens=(1, 2)),
        TimedText(text=" " + " ".join(TEXT.split()[5:10]), start_s=2.0, end_s=4.0, tokens=(3, 4)),
    )
    earlier = heard(words[:10], 0, 4.0, timed=True, sentences=sentences)
    later = heard(words[6:], 2.4, 6.4, timed=True)
    first, second = join(earlier, later)
    for found in (first.hypothesis, second.hypothesis):
        assert "".join(word.text for word in found.words).strip() == found.text
        assert "".join(map(chr, found.tokens)) == found.text.replace(" ", "")
    assert "".join(sentence.text for sentence in first.hypothesis.sentences).strip() == first.hypothesis.text
    assert first.hypothesis.sentences[0].tokens == (1, 2)


def test_without_the_times_of_words_a_parted_text_has_no_tokens():
    words = spoken(TEXT)
    first, second = join(heard(words[:10], 0, 4.0, timed=False), heard(words[6:], 2.4, 6.4, timed=False))
    assert first.hypothesis.tokens == second.hypothesis.tokens == ()


def test_whatever_both_hear_no_letter_of_one_window_alone_is_lost():
    rng = random.Random(0)
    for _ in range(300):
        words, at_s = [], 0.0
        for n in range(rng.randint(12, 40)):
            length_s = rng.uniform(0.15, 0.7)
            words.append((f"{rng.choice('कखगघ')}{rng.choice('तथदध')}{n}", at_s, at_s + length_s))
            at_s += length_s
        cut_s = rng.uniform(0.4, 0.6) * at_s
        begin_s = cut_s - rng.uniform(1.5, 2.0)
        earlier = heard([w for w in words if (w[1] + w[2]) / 2 < cut_s], 0, cut_s, timed=True)
        later = heard([w for w in words if (w[1] + w[2]) / 2 > begin_s], begin_s, at_s, timed=True)
        assert joined(earlier, later).split() == [text for text, _, _ in words]
