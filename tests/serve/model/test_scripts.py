"""Scripts of texts, by the letters in them."""

import pytest

from serve.model.scripts import is_written_in, scripts_of


@pytest.mark.parametrize(
    ("texts", "scripts"),
    [
        (["पाणी प्यायला ये।", "२०२४ 15%"], ["Devanagari"]),
        (["मी WhatsApp वापरतो"], ["Devanagari", "Latin"]),
        (["вода", "water"], ["Cyrillic", "Latin"]),
        (["12, 13!"], []),
        (["ߒߞߏ"], None),  # N'Ko: no language of Whisper is written in it
    ],
)
def test_the_scripts_of_texts_are_those_of_their_letters(texts, scripts):
    assert scripts_of(texts) == scripts


def test_shared_signs_belong_to_every_script_and_letters_to_their_own():
    assert is_written_in("रामा! (१२)", ["Devanagari"]) and is_written_in("किं…", ["Devanagari"])
    assert not is_written_in("রাম", ["Devanagari"]) and not is_written_in("ram", ["Devanagari"])
