"""Which tokens a smaller vocabulary keeps, on Whisper's own."""

import pytest

from serve.engine.ctranslate2.kept_tokens import KeptTokens, tokens_of_scripts
from serve.engine.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def vocabulary(whisper_base_dir):
    return Vocabulary.read(whisper_base_dir)


@pytest.fixture(scope="module")
def devanagari(vocabulary):
    return KeptTokens(tokens_of_scripts(vocabulary, ["Devanagari"]))


@pytest.mark.parametrize(
    "text",
    [" पुढच्या आठवड्यात आम्ही कोकणात जाण्याचा बेत आखलाय", " ऑफिस, ॲप आणि ळ?", " २५% – ₹१,२३४.५०", " “हो”… का॥"],
)
def test_text_in_the_script_needs_kept_tokens_alone(vocabulary, devanagari, text):
    tokens = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    assert tokens and all(token in devanagari for token in tokens)
    assert devanagari.to_full(devanagari.to_kept(tokens)) == tokens


def test_special_tokens_and_bytes_are_kept_and_words_of_other_scripts_are_not(vocabulary, devanagari):
    kept = list(devanagari)
    assert kept == sorted(kept) and len(kept) < vocabulary.size / 10
    assert set(range(vocabulary.end, vocabulary.size)) <= set(kept)
    assert all(number in devanagari for number in range(256))
    for word in (" the", " und", " вода"):
        tokens = vocabulary.tokenizer.encode(word, add_special_tokens=False).ids
        assert not all(token in devanagari for token in tokens)
    assert devanagari.to_kept([vocabulary.end, vocabulary.tokenizer.token_to_id("Ġthe")]) == [
        kept.index(vocabulary.end)
    ]


def test_another_script_keeps_others(vocabulary, devanagari):
    tamil, latin = (tokens_of_scripts(vocabulary, [script]) for script in ("Tamil", "Latin"))
    text = vocabulary.tokenizer.encode(" வணக்கம்", add_special_tokens=False).ids
    assert set(text) <= set(tamil) and not set(text) <= set(devanagari)
    assert len(latin) > 10 * len(tamil)
