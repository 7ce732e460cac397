"""Find which words were taken for which: (reference, hypothesis) -> count. Knows no audio and no page.

Words are aligned as for the WER. A word left out has an empty hypothesis, a word invented an empty reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from train.data.normalise import normaliser


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One word that was taken for another, and how often."""

    reference: str
    """What was said; empty where nothing was."""
    hypothesis: str
    """What was written; empty where the word is missing."""
    count: int


def find_confusions(
    references: Sequence[str],
    hypotheses: Sequence[str],
    profile: str,
    *,
    languages: Sequence[str | None] | None = None,
    limit: int = 20,
) -> list[Confusion]:
    """Return the most frequent confusions, most frequent first.

    Args:
        references: What was said.
        hypotheses: What was written, in the same order.
        profile: Name of a profile of `PROFILES`.
        languages: Language of each utterance, which decides what the profile does.
        limit: Most confusions that are returned.
    """
    counts: Counter[tuple[str, str]] = Counter()
    languages = languages or [None] * len(references)
    for reference, hypothesis, language in zip(references, hypotheses, languages, strict=True):
        normalise = normaliser(profile, language)
        counts.update(_wrong_words(normalise(reference).split(), normalise(hypothesis).split()))
    frequent_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Confusion(reference=said, hypothesis=written, count=count)
        for (said, written), count in frequent_first[:limit]
    ]


def _wrong_words(said: list[str], written: list[str]) -> Iterator[tuple[str, str]]:
    for edit in Levenshtein.editops(said, written):
        reference = "" if edit.tag == "insert" else said[edit.src_pos]
        yield reference, "" if edit.tag == "delete" else written[edit.dest_pos]
