"""Named, versioned text profiles for scoring and for training targets. Knows no audio and no model.

`raw` compares what was written. `nfc` composes code points. `indic` strips punctuation and case and applies
IndicNLP's normaliser for the language of the text. `marathi` adds what Marathi writes in more than one way:
joiners, the eyelash ra, candra a, digits; texts of other languages are compared by `indic` in its place.
`whisper-basic` is Whisper's own normaliser: it deletes every vowel sign of Devanagari and is offered only to
compare with figures published elsewhere.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from functools import cache, partial

VERSION = 3
"""Raised whenever a profile's output changes; written beside every score."""

Normaliser = Callable[[str], str]

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_EYELASH_RA = ("\u0930\u094d\u200d", "\u0931\u094d")  # र् + ZWJ and ऱ् look the same
_CANDRA_A_SPELT, _CANDRA_A = "\u0905\u0945", "\u0972"  # अ + ॅ and ॲ look the same
_DIGITS = {ord("०") + i: str(i) for i in range(10)}


def raw(text: str) -> str:
    """Return the text as it stands, without outer blanks."""
    return text.strip()


def nfc(text: str) -> str:
    """Return the text composed (NFC) with single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def indic(text: str, language: str = "mr") -> str:
    """Return the text without punctuation, in IndicNLP's canonical order for a language; lower case."""
    return _without_punctuation(_indic_nlp(language)(nfc(text))).lower()


def marathi(text: str) -> str:
    """Return `indic` with one spelling for joiners, eyelash ra, candra a and digits."""
    # IndicNLP takes candra a for e, another letter, but leaves its spelling with a sign alone.
    return indic(unify_marathi(text).replace(_CANDRA_A, _CANDRA_A_SPELT)).translate(_DIGITS)


def whisper_basic(text: str) -> str:
    """Return what Whisper's BasicTextNormalizer leaves; for comparison only."""
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
    """Return the name of the profile that compares texts of a language: `marathi` is for Marathi alone."""
    return "indic" if profile == "marathi" and language not in (None, "mr") else profile


def normaliser(profile: str, language: str | None = None) -> Normaliser:
    """Return what a profile of `PROFILES` does to texts of a language (Whisper's code; None is Marathi)."""
    name = profile_for(profile, language)
    return partial(indic, language=language) if name == "indic" and language else PROFILES[name]


def unify_marathi(text: str) -> str:
    """Return NFC text with one encoding for what looks the same in Marathi; punctuation stays."""
    text = unicodedata.normalize("NFC", text).replace(*_EYELASH_RA)
    text = text.replace(_ZWJ, "").replace(_ZWNJ, "")
    return " ".join(text.replace(_CANDRA_A_SPELT, _CANDRA_A).split())


def _without_punctuation(text: str) -> str:
    """Return the text with punctuation and symbols as blanks; marks and joiners stay."""
    kept = (" " if unicodedata.category(char)[0] in "PS" else char for char in text)
    return " ".join("".join(kept).split())


@cache
def _indic_nlp(language: str) -> Normaliser:
    """Return IndicNLP's normaliser for a language; one that changes nothing where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own escape sequences, on import
        from indicnlp.normalize.indic_normalize import IndicNormalizerFactory
    factory = IndicNormalizerFactory()
    if language == "ur" or not factory.is_language_supported(language):  # Urdu's needs another package
        return nfc
    normalizer = factory.get_normalizer(language)

    def normalise(text: str) -> str:
        return str(normalizer.normalize(text))

    return normalise
