"""Turn Marathi or Hindi text into IPA phonemes, by espeak-ng. Knows no voice."""

from __future__ import annotations

import random
import subprocess
import unicodedata

_ONE_SIGN = {"tʃ": "ʧ", "dʒ": "ʤ", "c": "ʧ", "ɟ": "ʤ", "g": "ɡ", "ʱ": "ʰ"}
_DENTAL = {"ʧ": "ʦ", "ʤ": "ʣ"}
_FRONT = frozenset("iɪeɛj")  # before these, Marathi's affricates are always palatal
_PASSED_OVER = frozenset("ʰːˈˌʧʤ")  # between an affricate and its vowel
_DENTAL_SHARE = 0.4  # of words where both are possible: the script does not distinguish them
_TIMEOUT_S = 20


def pronounce(sentence: str, language: str = "mr") -> str:
    """Return the phonemes of a sentence in a language (Whisper's code), deterministically.

    Affricates are single signs (ʧ ʤ, and ʦ ʣ in Marathi), aspiration is ʰ, and accents follow their letters.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        subprocess.TimeoutExpired: espeak-ng hangs on the sentence.
    """
    command = ["espeak-ng", "-v", language, "--ipa", "-q", "--", sentence]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    sounds = unicodedata.normalize("NFD", " ".join(run.stdout.split()))
    for signs, sign in _ONE_SIGN.items():
        sounds = sounds.replace(signs, sign)
    if language != "mr":
        return sounds
    rng = random.Random(sentence)
    return " ".join(
        _with_dentals(word) if rng.random() < _DENTAL_SHARE else word for word in sounds.split(" ")
    )


def _with_dentals(word: str) -> str:
    """Make च, ज, झ dental as in चांगला, not palatal as in चित्र, where the next vowel allows it."""
    signs = list(word)
    for number, sign in enumerate(signs):
        following = next((after for after in signs[number + 1 :] if after not in _PASSED_OVER), "")
        if sign in _DENTAL and following not in _FRONT:
            signs[number] = _DENTAL[sign]
    return "".join(signs)
