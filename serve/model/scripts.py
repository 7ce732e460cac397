"""Find the Unicode scripts that a text is written in. Knows no language and no model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import regex

SCRIPTS = (
    *("Latin", "Greek", "Cyrillic", "Armenian", "Georgian", "Hebrew", "Arabic", "Ethiopic"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam"),
    *("Sinhala", "Thai", "Lao", "Myanmar", "Khmer", "Tibetan", "Han", "Hiragana", "Katakana", "Hangul"),
)
"""The scripts of Whisper's languages."""


def scripts_of(texts: Iterable[str]) -> list[str] | None:
    """Return the scripts of the letters in texts, sorted; None where a letter is in none of `SCRIPTS`.

    Digits, punctuation and signs that several scripts share count for all of them.
    """
    letters = sorted({letter for text in texts for letter in text})
    found = {script for letter in letters if (script := _script_of(letter)) is not None}
    return sorted(found) if all(is_written_in(letter, sorted(found)) for letter in letters) else None


def is_written_in(text: str, scripts: Iterable[str]) -> bool:
    """Tell whether every letter of a text is in one of these scripts, or common to all scripts."""
    return _pattern(tuple(scripts)).fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str | None:
    return next((s for s in SCRIPTS if regex.match(rf"\p{{Script={s}}}", letter)), None)


@lru_cache(maxsize=64)
def _pattern(scripts: tuple[str, ...]) -> regex.Pattern[str]:
    """Match text in these scripts; Script_Extensions includes shared signs, like the danda."""
    classes = "".join(rf"\p{{Script_Extensions={script}}}" for script in scripts)
    return regex.compile(rf"[\p{{Script=Common}}\p{{Script=Inherited}}{classes}]*")
