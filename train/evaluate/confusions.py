"""Find which words were taken for which: (reference, hypothesis) -> count. Knows no audio and no page.

Words are aligned as for the WER. A word left out has an empty hypothesis, a word invented an empty reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jiwer

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
        references: what was said.
        hypotheses: what was written, in the same order.
        profile: name of a profile of `PROFILES`.
        languages: of each utterance, which decide what the profile does.
        limit: most confusions that are returned.
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
    if not said:  # jiwer refuses an empty reference
        yield from (("", word) for word in written)
        return
    for chunk in jiwer.process_words(" ".join(said), " ".join(written)).alignments[0]:
        wrong = (
            said[chunk.ref_start_idx : chunk.ref_end_idx],
            written[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        if chunk.type == "substitute":
            yield from zip(*wrong, strict=True)
        elif chunk.type == "delete":
            yield from ((word, "") for word in wrong[0])
        elif chunk.type == "insert":
            yield from (("", word) for word in wrong[1])
