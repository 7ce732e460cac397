"""What neural voices are given to say: sentences, and phrases of a few words between them."""

from __future__ import annotations

import random

import pytest

from train.data.synthesis import text
from train.data.synthesis.lines import Phrases, plan_lines

SENTENCES = [
    f"पहिला शब्द {word} शेवटचा शब्द" for word in ("घर", "झाड", "नदी", "डोंगर", "आकाश", "माती", "पाऊस", "वारा")
]


@pytest.fixture(scope="module")
def phrases():
    return Phrases(SENTENCES)


def spoken(phrases, count, engine="kokoro", seed=0):
    return [(line.text, line.source) for line in plan_lines(SENTENCES, phrases, engine, count, seed)]


def test_a_longer_plan_begins_as_a_shorter_one(phrases):
    assert spoken(phrases, 60)[:20] == spoken(phrases, 20)


def test_every_sentence_comes_once_before_any_comes_again(phrases):
    said = [line for line, source in spoken(phrases, 24) if source == "everyday"]
    assert sorted(said[:8]) == sorted(SENTENCES) == sorted(said[8:16])
    assert said[:8] != said[8:16]


def test_one_line_in_eight_is_a_phrase(phrases):
    sources = [source for _, source in spoken(phrases, 800)]
    assert sources.count("phrases") == 100 and sources[:8].count("phrases") == 1


def test_engines_and_seeds_differ_in_order(phrases):
    assert len({tuple(spoken(phrases, 8, *given)) for given in [(), ("piper",), ("kokoro", 1)]}) == 3


def test_numbers_and_colours_are_said_in_rows_and_never_alone(phrases):
    counted = set(text.counted_words())
    drawn = [phrases.draw(random.Random(seed)).split() for seed in range(3000)]
    assert {len(words) for words in drawn} == {1, 2, 3, 4}
    assert not [words for words in drawn if len(words) == 1 and words[0] in counted]
    rows = [words for words in drawn if set(words) <= counted]
    assert 0.4 < len(rows) / len(drawn) < 0.5
    assert counted == {word for words in rows for word in words}
