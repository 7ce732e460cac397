"""What espeak-ng says about Marathi, in signs that every neural voice can be given."""

from __future__ import annotations

import pytest

from train.data.synthesis import kokoro, piper, text
from train.data.synthesis.phonemes import pronounce


def test_every_sound_of_marathi_is_one_that_both_neural_engines_know():
    sentences = [*text.everyday_sentences()[::40], *text.training_sentences()[::400], *text.counted_words()]
    heard = pronounce(" ".join(sentences))
    assert len(set(heard)) > 40
    assert kokoro.unknown_sounds(heard) == set()
    assert piper.unknown_sounds(heard) == set()


def test_a_sentence_is_always_said_the_same_way():
    assert pronounce("चांगला चहा जरा झटकन") == pronounce("चांगला चहा जरा झटकन")


def test_affricates_are_dental_in_some_words_and_never_before_front_vowels():
    words = [f"{letter}{end}" for letter in "चजझ" for end in ("ाळ", "ूल", "ोर", "टक", "ंगल", "ाक", "ार", "ाल")]
    said = [pronounce(word) for word in words]
    assert any(sign in word for word in said for sign in "ʦʣ")
    assert any(sign in word for word in said for sign in "ʧʤ")
    fronted = pronounce("चित्र चीज जिरे जीभ झील चेहरा जेवण").replace("ʰ", "").replace("ˈ", "")
    assert not any(f"{affricate}{vowel}" in fronted for affricate in "ʦʣ" for vowel in "iɪeɛ")


@pytest.mark.parametrize("pair", ["टाक ताक", "कण कन", "काल खाल", "डाव दाव", "मळ मल", "भाव बाव"])
def test_words_that_differ_in_marathi_differ_in_what_is_said(pair):
    first, second = (pronounce(word) for word in pair.split())
    assert first != second


def test_every_sound_of_hindi_is_one_that_both_neural_engines_know_and_none_is_a_marathi_affricate():
    heard = pronounce(" ".join(text.hindi_sentences()[::10]), "hi")
    assert len(set(heard)) > 35
    assert kokoro.unknown_sounds(heard) == set()
    assert piper.unknown_sounds(heard) == set()
    assert not set("ʦʣ") & set(heard)
