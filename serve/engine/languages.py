"""Whisper's languages: codes, English names, aliases, and which of them fits a text. Knows no speech model.

Not every checkpoint has every language (`yue` came with large-v3); an engine lists its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGE_NAMES = {
    "af": "afrikaans",
    "am": "amharic",
    "ar": "arabic",
    "as": "assamese",
    "az": "azerbaijani",
    "ba": "bashkir",
    "be": "belarusian",
    "bg": "bulgarian",
    "bn": "bengali",
    "bo": "tibetan",
    "br": "breton",
    "bs": "bosnian",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fo": "faroese",
    "fr": "french",
    "gl": "galician",
    "gu": "gujarati",
    "ha": "hausa",
    "haw": "hawaiian",
    "he": "hebrew",
    "hi": "hindi",
    "hr": "croatian",
    "ht": "haitian creole",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian",
    "ja": "japanese",
    "jw": "javanese",
    "ka": "georgian",
    "kk": "kazakh",
    "km": "khmer",
    "kn": "kannada",
    "ko": "korean",
    "la": "latin",
    "lb": "luxembourgish",
    "ln": "lingala",
    "lo": "lao",
    "lt": "lithuanian",
    "lv": "latvian",
    "mg": "malagasy",
    "mi": "maori",
    "mk": "macedonian",
    "ml": "malayalam",
    "mn": "mongolian",
    "mr": "marathi",
    "ms": "malay",
    "mt": "maltese",
    "my": "myanmar",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "nynorsk",
    "no": "norwegian",
    "oc": "occitan",
    "pa": "punjabi",
    "pl": "polish",
    "ps": "pashto",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sa": "sanskrit",
    "sd": "sindhi",
    "si": "sinhala",
    "sk": "slovak",
    "sl": "slovenian",
    "sn": "shona",
    "so": "somali",
    "sq": "albanian",
    "sr": "serbian",
    "su": "sundanese",
    "sv": "swedish",
    "sw": "swahili",
    "ta": "tamil",
    "te": "telugu",
    "tg": "tajik",
    "th": "thai",
    "tk": "turkmen",
    "tl": "tagalog",
    "tr": "turkish",
    "tt": "tatar",
    "uk": "ukrainian",
    "ur": "urdu",
    "uz": "uzbek",
    "vi": "vietnamese",
    "yi": "yiddish",
    "yo": "yoruba",
    "yue": "cantonese",
    "zh": "chinese",
}
"""Whisper's code -> English name."""

FAMILIES = tuple(
    frozenset(codes.split())
    for codes in (
        "as bn gu hi mr ne pa sa sd si ur",
        "kn ml ta te",
        "fa ps tg",
        "be bg bs cs hr mk pl ru sk sl sr uk",
        "ca es fr gl it oc pt ro",
        "af da de en fo is lb nl nn no sv yi",
        "az ba kk tk tr tt uz",
        "id jw ms su tl",
        "et fi",
        "yue zh",
    )
)
"""Related languages, which the base model confuses."""

TWINS = {"hi": "ur", "ur": "hi", "no": "nn", "nn": "no", "id": "ms", "ms": "id", "hr": "sr", "sr": "hr"}
"""Pairs of languages that sound alike but are written differently."""

WRITTEN_ALIKE = tuple(
    frozenset(codes.split())
    for codes in (
        "hi mr ne sa",
        "as bn",
        "sd ur",
        "fa ps",
        "be bg mk ru sr uk",
        "bs cs hr pl sk sl",
        "ca es fr gl it oc pt ro",
        "af da de en fo is lb nl nn no sv",
        "az tk tr uz",
        "ba kk tt",
        "id jw ms su tl",
        "et fi",
    )
)
"""Related languages in one script: text in any of them shows which it is."""

_OTHER_NAMES = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
}

_CODES = {name: code for code, name in LANGUAGE_NAMES.items()} | _OTHER_NAMES


def language_code(name_or_code: str) -> str | None:
    """Return Whisper's code for `mr`, `MR`, `mr-IN` or `Marathi`; None for anything else."""
    wanted = name_or_code.strip().lower()
    if wanted in LANGUAGE_NAMES:
        return wanted
    if wanted in _CODES:
        return _CODES[wanted]
    subtag = wanted.replace("_", "-").partition("-")[0]
    return subtag if subtag in LANGUAGE_NAMES else None


def written_alike(language: str | None) -> frozenset[str]:
    """Return the language's relatives in its script, itself included; empty where it has none."""
    return next((each for each in WRITTEN_ALIKE if language in each), frozenset())


def fits(text: str, languages: Iterable[str]) -> dict[str, float]:
    """Return the probability of each language, given that the text is in one of them.

    The words and letters decide, by py3langid's model of 140 languages (naive Bayes over byte sequences: Lui
    and Baldwin, 2012).

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
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
