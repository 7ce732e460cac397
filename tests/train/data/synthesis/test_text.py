"""Marathi text: what a voice can read, where it comes from, and nothing else."""

from __future__ import annotations

import random
import unicodedata

import pytest

from train.data.synthesis import text
from train.errors import DataError


@pytest.mark.parametrize(
    ("line", "spoken"),
    [
        ("आई घरी आहे.", "आई घरी आहे"),
        ("«आई»", None),
        ("दस्तऐवज (~जतन) करा…", "दस्तऐवज जतन करा"),
        ("नाव: \t आशा – पत्ता", "नाव आशा पत्ता"),
        ("अ\u0945प उघडा", "ॲप उघडा"),
        ("सुर्\u200dया आला", "सुऱ्या आला"),
        ("जतन", None),
        ("%d फाइल जतन करा", None),
        ("पान १२ पहा", None),
        ("Firefox सुरू करा", None),
        ("<b>जतन करा</b>", None),
        ("क् ख् ग्", None),
        ("ा ि ी", None),
        ("शब्द " * 15, None),
        ("लांबलचकशब्दांचीमालिका " * 6, None),
    ],
)
def test_a_line_becomes_bare_words_or_nothing(line, spoken):
    assert text.speakable(line) == spoken


def test_everyday_sentences_are_distinct_speakable_and_canonical():
    sentences = text.everyday_sentences()
    assert len(sentences) == len(set(sentences)) > 3_000
    for sentence in sentences:
        assert text.speakable(sentence) == sentence
        assert unicodedata.is_normalized("NFC", sentence)


def test_catalogues_give_thousands_of_sentences_of_three_words_and_more():
    sentences = text.catalogue_sentences()
    assert len(sentences) == len(set(sentences)) > 3_000
    assert all(len(sentence.split()) >= 3 and text.speakable(sentence) == sentence for sentence in sentences)


def test_without_catalogues_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "LIBREOFFICE_CATALOGUES", tmp_path / "absent")
    monkeypatch.setattr(text, "FIREFOX_CATALOGUE", tmp_path / "absent.xpi")
    with pytest.raises(DataError, match=r"libreoffice-l10n-mr.*make system-deps"):
        text.catalogue_sentences()


def test_without_a_dictionary_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"tesseract-ocr-mar.*make system-deps"):
        text.word_list()


def test_word_sequences_use_every_word_about_equally_often():
    words = [f"शब्द{letter}" for letter in "कखगघचछजझटठडढ"]
    sequences = text.word_sequences(words, 100, random.Random(0))
    assert all(3 <= len(sequence.split()) <= 6 for sequence in sequences)
    used = [word for sequence in sequences for word in sequence.split()]
    counts = {word: used.count(word) for word in words}
    assert (
        set(used) == set(words) and max(counts.values()) - min(counts.values()) < len(used) / len(words) / 2
    )
    assert sequences == text.word_sequences(words, 100, random.Random(0))


def test_the_dictionary_holds_thousands_of_words():
    words = text.word_list()
    assert len(words) > 100_000 and words == sorted(set(words)) and all(map(text.is_word, words))


def test_exchanged_words_keep_their_endings_and_common_words_stay():
    sentences = ["तो घरात बसला", "तो गावात आला", "तो रानात गेला", "तो शाळेत गेला", "तो आला", "तो गेला"]
    words = [f"{letter}रात" for letter in "कखगघचछजझटठडढणतथदधनपफबभम"] + ["वेगळेच"]
    exchanged = text.exchange_words(sentences, words, 200, random.Random(0))
    assert len(exchanged) == 200 and exchanged == text.exchange_words(sentences, words, 200, random.Random(0))
    assert all(sentence.split()[0] == "तो" for sentence in exchanged)  # six times in the text: it stays
    new = [word for sentence in exchanged for word in sentence.split() if word in words]
    assert set(new) == set(words) - {"वेगळेच"}, "its ending occurs in no sentence"
    for sentence in exchanged:
        if sentence.split()[-1] == "बसला":
            assert sentence.split()[1].endswith("रात")


def test_sentences_for_training_alone_are_as_clean_and_none_is_an_everyday_one():
    sentences = text.training_sentences()
    assert len(sentences) == len(set(sentences)) > 1_000
    assert all(text.speakable(sentence) == sentence for sentence in sentences)
    assert not set(sentences) & set(text.everyday_sentences())
