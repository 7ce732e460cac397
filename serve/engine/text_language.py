"""A text -> how well each of a few languages fits it.

By the words and letters of py3langid's model of 140 languages (naive Bayes over byte sequences: Lui and
Baldwin, 2012). Knows no sound and no model of speech.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier


def fits(text: str, languages: Iterable[str]) -> dict[str, float]:
    """Return the probability of each language, given that the text is in one of them.

    Args:
        languages: Those that the model does not know are left out.

    Returns:
        Language -> probability; empty where fewer than two languages are known. Equal for a text that shows
        nothing.
    """
    wanted = set(languages)
    ranked = {code: prob for code, prob in _identifier().rank(text) if code in wanted}
    total = sum(ranked.values())
    if len(ranked) < 2 or not total:
        return {}
    return {code: prob / total for code, prob in ranked.items()}


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    """Load the model when a text is first in doubt: it takes a second and 80 MB."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
