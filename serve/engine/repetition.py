"""Notice that greedy decoding runs in circles. Knows token numbers only."""

from __future__ import annotations

from collections.abc import Callable

MAX_PERIOD_TOKENS = 48
"""Longest loop looked for. A Devanagari word takes about 7 tokens, so this covers loops of some six words."""

MIN_ROUNDS = 4
"""People do say a word three times in a row."""

MIN_LOOP_TOKENS = 40
"""Shorter stretches are left alone: laughter and stuttering repeat a syllable of three tokens many times."""


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
