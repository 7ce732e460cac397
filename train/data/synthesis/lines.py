"""Choose what neural voices say: sentences and short phrases, in an order whose prefixes are fair samples.

So training may start before all clips are spoken, and a larger plan starts like a smaller one. Knows no
voice.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from train.data.synthesis import text

_EVERY = 8  # one clip in this many is a phrase of a few words: single words are the hardest to transcribe
_COUNTED_SHARE = 0.45  # of phrases that are numbers and colours
_DICTIONARY_SHARE = 0.35  # of other phrases' words from the dictionary; the rest come from the sentences
_LEAST_USES = 2  # in the sentences, for a word to be used in phrases


@dataclass(frozen=True)
class Line:
    """One text to speak, and the random generator for its voice and delivery."""

    text: str
    source: str
    rng: random.Random


class Phrases:
    """Draws phrases of one to four words, from the sentences, the dictionary, and numbers and colours.

    A single number or colour is never drawn, because recordings of people who say just that are a test set.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        uses = Counter(word for sentence in sentences for word in sentence.split())
        self._counted = text.counted_words()
        known = set(self._counted)
        self._common = sorted(word for word, n in uses.items() if n >= _LEAST_USES and word not in known)
        self._rare = [word for word in text.word_list() if word not in uses and word not in known]

    def draw(self, rng: random.Random) -> str:
        if rng.random() < _COUNTED_SHARE:
            return " ".join(rng.choice(self._counted) for _ in range(rng.randint(2, 4)))
        n_words = rng.randint(1, 4)
        return " ".join(
            rng.choice(self._rare if rng.random() < _DICTIONARY_SHARE else self._common)
            for _ in range(n_words)
        )


def plan_lines(
    sentences: Sequence[str], phrases: Phrases | None, engine: str, count: int, seed: int
) -> list[Line]:
    """Return `count` lines for one engine: all sentences before any is repeated, and any phrases between."""
    lines: list[Line] = []
    deck = _shuffled_again_and_again(sentences, f"{seed}/{engine}")
    times: Counter[str] = Counter()
    for number in range(count):
        if phrases is not None and number % _EVERY == _EVERY - 1:
            rng = random.Random(f"{seed}/{engine}/phrase/{number}")
            lines.append(Line(phrases.draw(rng), "phrases", rng))
        else:
            sentence = next(deck)
            times[sentence] += 1
            rng = random.Random(f"{seed}/{engine}/{sentence}/{times[sentence]}")
            lines.append(Line(sentence, "everyday", rng))
    return lines


def _shuffled_again_and_again(sentences: Sequence[str], seed: str) -> Iterator[str]:
    """Yield all sentences, round after round, in orders that hardly change when sentences are added."""
    turn = 0
    while sentences:
        turn += 1
        yield from sorted(
            sentences, key=lambda sentence: hashlib.sha256(f"{seed}/{turn}/{sentence}".encode()).digest()
        )
