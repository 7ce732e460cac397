"""Named, versioned text normalisation profiles, for scoring and training targets. Knows no audio or model.

* `raw` leaves the text as it is; `nfc` composes code points.
* `indic` removes punctuation and case, and applies IndicNLP's normaliser for the text's language.
* `marathi` also unifies what Marathi spells in several ways: joiners, the eyelash ra, candra a, digits.
  Texts in other languages are compared by `indic` instead.
* `whisper-basic` is Whisper's own normaliser, which deletes every vowel sign of Devanagari. It serves only to
  compare with published figures.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from functools import cache, partial

VERSION = 3
"""Increased whenever a profile's output changes; stored with every score."""

Normaliser = Callable[[str], str]

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_EYELASH_RA = ("\u0930\u094d\u200d", "\u0931\u094d")  # र् + ZWJ and ऱ् look the same
_CANDRA_A_SPELT, _CANDRA_A = "\u0905\u0945", "\u0972"  # अ + ॅ and ॲ look the same
_DIGITS = {ord("०") + i: str(i) for i in range(10)}


def raw(text: str) -> str:
    """Strip outer whitespace."""
    return text.strip()


def nfc(text: str) -> str:
    """Compose the text (NFC), with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def indic(text: str, language: str = "mr") -> str:
    """Remove punctuation, lower the case, and apply IndicNLP's normaliser for a language."""
    return _without_punctuation(_indic_nlp(language)(nfc(text))).lower()


def marathi(text: str) -> str:
    """Apply `indic`, and unify joiners, eyelash ra, candra a and digits."""
    # IndicNLP maps candra a to e, another letter, but keeps its spelling with a sign.
    return indic(unify_marathi(text).replace(_CANDRA_A, _CANDRA_A_SPELT)).translate(_DIGITS)


def whisper_basic(text: str) -> str:
    """Apply Whisper's BasicTextNormalizer, for comparison only."""
    warnings.warn(
        "whisper-basic deletes the vowel signs of Devanagari: use it only to compare with published figures",
        UserWarning,
        stacklevel=2,
    )
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return str(BasicTextNormalizer()(text)).strip()


PROFILES: dict[str, Normaliser] = {
    "raw": raw,
    "nfc": nfc,
    "indic": indic,
    "marathi": marathi,
    "whisper-basic": whisper_basic,
}


def profile_for(profile: str, language: str | None) -> str:
    """Return the name of the profile for texts in a language: `marathi` applies to Marathi alone."""
    return "indic" if profile == "marathi" and language not in (None, "mr") else profile


def normaliser(profile: str, language: str | None = None) -> Normaliser:
    """Return a profile's function for texts in a language (Whisper's code; None is Marathi)."""
    name = profile_for(profile, language)
    return partial(indic, language=language) if name == "indic" and language else PROFILES[name]


def unify_marathi(text: str) -> str:
    """Return NFC text with one encoding for what looks the same in Marathi; keep punctuation."""
    text = unicodedata.normalize("NFC", text).replace(*_EYELASH_RA)
    text = text.replace(_ZWJ, "").replace(_ZWNJ, "")
    return " ".join(text.replace(_CANDRA_A_SPELT, _CANDRA_A).split())


def _without_punctuation(text: str) -> str:
    """Replace punctuation and symbols by spaces; keep marks and joiners."""
    kept = (" " if unicodedata.category(char)[0] in "PS" else char for char in text)
    return " ".join("".join(kept).split())


@cache
def _indic_nlp(language: str) -> Normaliser:
    """Return IndicNLP's normaliser for a language; `nfc` where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's import warns of its own escape sequences
        from indicnlp.normalize.indic_normalize import IndicNormalizerFactory
    factory = IndicNormalizerFactory()
    if language == "ur" or not factory.is_language_supported(language):  # Urdu needs another package
        return nfc
    normalizer = factory.get_normalizer(language)

    def normalise(text: str) -> str:
        return str(normalizer.normalize(text))

    return normalise
