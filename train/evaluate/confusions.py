"""Count which words a model mistakes: (reference, hypothesis) -> count. Knows no audio and no page.

Words are aligned as for the WER. A deleted word has an empty hypothesis, an inserted one an empty reference.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from train.data.normalise import normaliser
from train.evaluate.scoring import align_words


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A word that was mistaken for another, and how often."""

    reference: str
    """The spoken word; empty for an insertion."""
    hypothesis: str
    """The transcribed word; empty for a deletion."""
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
        hypotheses: Transcribed texts, in the same order.
        languages: Language of each utterance, for the profile.
        limit: Most confusions returned.
    """
    counts: Counter[tuple[str, str]] = Counter()
    languages = languages or [None] * len(references)
    for reference, hypothesis, language in zip(references, hypotheses, languages, strict=True):
        normalise = normaliser(profile, language)
        counts.update(_wrong_words(normalise(reference), normalise(hypothesis)))
    frequent_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Confusion(reference=said, hypothesis=written, count=count)
        for (said, written), count in frequent_first[:limit]
    ]


def _wrong_words(said: str, written: str) -> Iterator[tuple[str, str]]:
    aligned = align_words(said, written)
    if aligned is None:
        yield from (("", word) for word in written.split())
        return
    (references,), (hypotheses,) = aligned.references, aligned.hypotheses
    for chunk in aligned.alignments[0]:
        if chunk.type != "equal":
            reference = references[chunk.ref_start_idx : chunk.ref_end_idx]
            hypothesis = hypotheses[chunk.hyp_start_idx : chunk.hyp_end_idx]
            yield from itertools.zip_longest(reference, hypothesis, fillvalue="")
