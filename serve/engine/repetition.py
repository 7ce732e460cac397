"""Notice that a text runs in circles. Knows tokens and words only; `serve.engine.copies` asks the sound."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_PERIOD_TOKENS = 48
"""Longest loop looked for. A Devanagari word takes about 7 tokens, so this covers loops of some six words."""

MIN_ROUNDS = 4
"""People do say a word three times in a row."""

MIN_LOOP_TOKENS = 40
"""Shorter stretches are left alone: laughter and stuttering repeat a syllable of three tokens many times."""

MAX_PERIOD_WORDS = 16
"""Longest phrase looked for; in languages without spaces every letter is a word."""


class RepetitionWatch:
    """Counts, for each period p, how many of the latest tokens equal the token p places before them."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._matches = [0] * (MAX_PERIOD_TOKENS + 1)

    def push(self, token: int) -> int | None:
        """Append a token.

        Returns:
            How many tokens to keep (everything before the loop and its first round) when the text has begun
            to loop, otherwise None.
        """
        tokens, matches = self._tokens, self._matches
        tokens.append(token)
        n_tokens = len(tokens)
        for period in range(1, min(MAX_PERIOD_TOKENS, n_tokens - 1) + 1):
            if tokens[-1 - period] != token:
                matches[period] = 0
                continue
            matches[period] += 1
            loop_tokens = matches[period] + period
            if loop_tokens >= max(MIN_LOOP_TOKENS, MIN_ROUNDS * period):
                return n_tokens - matches[period]
        return None


def before_loop(tokens: list[int], counts: Callable[[int], bool]) -> tuple[list[int], bool]:
    """Return the tokens up to the first round of a loop, and whether there is one.

    Args:
        tokens: The emitted tokens.
        counts: Tells whether a token counts; times do not.
    """
    watch = RepetitionWatch()
    places = [place for place, token in enumerate(tokens) if counts(token)]
    for place in places:
        if (n_kept := watch.push(tokens[place])) is not None:
            return tokens[: places[n_kept]], True
    return tokens, False


@dataclass(frozen=True)
class Run:
    """A word or phrase that a text has several times, one right after another."""

    start: int
    """Its first word."""
    size: int
    """Words of one round."""
    n_rounds: int
    """Whole rounds."""

    @property
    def end(self) -> int:
        """The word behind the last whole round."""
        return self.start + self.size * self.n_rounds


def find_run(words: Sequence[str]) -> Run | None:
    """Return the run that takes most of a text; of equals, that of the shortest phrase."""
    plain = [bare(word) for word in words]
    best: Run | None = None
    for size in range(1, min(MAX_PERIOD_WORDS, len(plain) // MIN_ROUNDS) + 1):
        n_alike = 0
        for place in range(size, len(plain) + 1):
            if place < len(plain) and plain[place] == plain[place - size]:
                n_alike += 1
                continue
            n_rounds = n_alike // size + 1
            if n_rounds >= MIN_ROUNDS and (best is None or n_rounds * size > best.n_rounds * best.size):
                best = Run(place - size - n_alike, size, n_rounds)
            n_alike = 0
    return best


def bare(text: str) -> str:
    """Return the letters of a text, without capitals, spaces and punctuation."""
    return "".join(letter for letter in text.casefold() if unicodedata.category(letter)[0] not in "PSZ")
