"""Keep test sentences and near copies of them out of training. Knows no voice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_MOST_RESEMBLANCE = 0.75  # Dice coefficient of words between a training sentence and a held-out one


@dataclass(frozen=True)
class Split:
    train: list[str]
    valid: list[str]
    test: list[str]


NOTHING = Split([], [], [])


class Resemblance:
    """Tells whether a sentence shares nearly all words with any of a list."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._bags = [Counter(sentence.split()) for sentence in sentences]
        self._holders: dict[str, set[int]] = {}
        for number, bag in enumerate(self._bags):
            for word in bag:
                self._holders.setdefault(word, set()).add(number)

    def __contains__(self, sentence: str) -> bool:
        bag = Counter(sentence.split())
        shared: Counter[int] = Counter()
        for word, count in bag.items():
            for number in self._holders.get(word, ()):
                shared[number] += min(count, self._bags[number][word])
        sizes = ((2 * n, bag.total() + self._bags[number].total()) for number, n in shared.items())
        return any(common > _MOST_RESEMBLANCE * total for common, total in sizes)


def split_sentences(sentences: list[str], n_test: int, rng: random.Random) -> Split:
    """Shuffle and split sentences; validation and test get at most a tenth each."""
    shuffled = rng.sample(sentences, len(sentences))
    n_test = min(n_test, len(shuffled) // 10)
    return Split(shuffled[2 * n_test :], shuffled[n_test : 2 * n_test], shuffled[:n_test])
