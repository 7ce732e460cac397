"""Which words of a hypothesis may be committed while the phrase goes on.

Two policies. With alignment, a word is committed once its sound ends far enough before the end of what was
heard: what follows will not change it (AlignAtt: Papi et al., 2023; Simul-Whisper, 2024). Near the end, the
hypothesis before must have it too: a word may still be cut in two, or be about to grow. With agreement, a
word is committed once two successive hypotheses have it (LocalAgreement-2: Liu et al., 2020); that takes one
decoding longer, but no times. Knows no samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from serve.engine import TimedText

MARGIN_S = 0.5
"""Sound behind a word that is committed by alignment, in seconds, if the hypothesis before has it."""

SURE_MARGIN_S = 1.2
"""The same where the hypothesis before has another word, or comes from much less sound."""

Policy = Callable[[Sequence[TimedText], Sequence[str], float], int]
"""(words behind the committed ones, words of the hypothesis before, end of the sound in seconds of the
window) -> how many of the words to commit."""


def by_alignment(words: Sequence[TimedText], earlier: Sequence[str], end_s: float) -> int:
    """Count the words that end well before the end of the sound; the last word may go on."""
    agreed = words[: by_agreement(words, earlier, end_s)]
    return max(ending_before(agreed, end_s - MARGIN_S), ending_before(words[:-1], end_s - SURE_MARGIN_S))


def by_agreement(words: Sequence[TimedText], earlier: Sequence[str], end_s: float) -> int:
    """Count the words that the hypothesis before has as well."""
    same = takewhile(lambda pair: pair[0].text == pair[1], zip(words[:-1], earlier, strict=False))
    return sum(1 for _ in same)


def ending_before(words: Sequence[TimedText], latest_s: float) -> int:
    """Count the first words that end in time."""
    return sum(1 for _ in takewhile(lambda word: word.end_s <= latest_s, words))
