"""Text profiles: what each keeps, and what it takes for the same."""

from __future__ import annotations

import unicodedata

import pytest

from train.data.normalise import (
    PROFILES,
    indic,
    marathi,
    nfc,
    normaliser,
    profile_for,
    raw,
    unify_marathi,
    whisper_basic,
)

ZWJ, ZWNJ = "\u200d", "\u200c"
SENTENCE = "मुलींनी कृष्णाला द्राक्षं दिली"  # vowel signs, virama, anusvara, vocalic r


@pytest.mark.parametrize("profile", ["raw", "nfc", "indic", "marathi"])
def test_every_vowel_sign_virama_and_anusvara_is_kept(profile):
    marks = [char for char in SENTENCE if unicodedata.category(char).startswith("M")]
    kept = [char for char in PROFILES[profile](SENTENCE) if unicodedata.category(char).startswith("M")]
    assert kept == marks


def test_raw_changes_nothing_but_outer_blanks():
    assert raw("  घर,  दार। \n") == "घर,  दार।"


def test_nfc_composes_and_leaves_single_blanks():
    assert nfc("e\u0301t  \t कर") == "\u00e9t कर"


def test_indic_strips_punctuation_and_danda_but_not_digits():
    assert indic("अरे! घर, दार (३)। ठीक-ठाक?") == "अरे घर दार ३ ठीक ठाक"


def test_indic_takes_capital_and_small_letters_for_one():
    assert indic("Hello, World") == "hello world"


def test_the_marathi_profile_is_for_marathi_and_indic_stands_for_it_elsewhere():
    assert [profile_for("marathi", code) for code in ("mr", None, "hi", "en")] == [
        *("marathi", "marathi"),
        *("indic", "indic"),
    ]
    assert profile_for("raw", "hi") == "raw"
    assert normaliser("marathi", "mr")("२५") == "25" and normaliser("marathi", "hi")("२५।") == "२५"


def test_indic_follows_the_language():
    assert normaliser("indic", "hi")("\u0929") == "\u0928\u093c"  # one letter, or a letter and its dot
    assert normaliser("indic", "bn")("\u0929") == "\u0929"  # not of its script


@pytest.mark.parametrize("language", ["en", "ur", "ta", "gu"])
def test_texts_of_every_language_can_be_compared(language):
    assert normaliser("marathi", language)("One,  two؟") == "one two"


def test_indic_still_tells_spellings_of_the_same_apart():
    assert indic("सुऱ्या") != indic(f"सुर्{ZWJ}या")
    assert indic("ॲप") != indic("अॅप")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("सुऱ्या", f"सुर्{ZWJ}या"),  # the eyelash ra, as a letter and as ra + virama + joiner
        ("ॲप", "अॅप"),  # candra a, as one letter and as a with a sign
        ("क्ष", f"क्{ZWJ}ष"),
        ("क्ष", f"क्{ZWNJ}ष"),
        ("२०२६", "2026"),
        ("WiFi", "wifi"),
        ("हो, नाही.", "हो नाही"),
    ],
)
def test_marathi_takes_two_spellings_of_the_same_for_one(one, other):
    assert marathi(one) == marathi(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("सुऱ्या", "सुर्या"), ("ॲप", "एप"), ("ॲप", "अप"), ("काळ", "काल"), ("दिन", "दीन"), ("ड", "ड़")],
)
def test_marathi_keeps_what_sounds_different_apart(one, other):
    assert marathi(one) != marathi(other)


@pytest.mark.parametrize("profile", ["raw", "nfc", "indic", "marathi"])
def test_normalising_twice_is_normalising_once(profile):
    normalise = PROFILES[profile]
    for text in (SENTENCE, f"सुर्{ZWJ}या, ॲप २५!", "अॅप", ""):
        assert normalise(normalise(text)) == normalise(text)


def test_training_text_keeps_its_punctuation_when_unified():
    assert unify_marathi(f"सुर्{ZWJ}या,  अॅप।") == "सुऱ्या, ॲप।"


def test_whisper_basic_warns_and_loses_vowel_signs():
    with pytest.warns(UserWarning, match="vowel signs"):
        left = whisper_basic("की")
    assert left == "क"
