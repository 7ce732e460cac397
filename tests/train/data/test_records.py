"""Who speaks a clip: said by its row, told by the name of its voice, never guessed."""

from __future__ import annotations

import pytest

from train.data.records import VOICE_KINDS, voice_kind


@pytest.mark.parametrize(
    ("voice", "kind"),
    [
        ("kokoro-hf_beta", "neural"),
        ("piper-joe-1.05", "neural"),
        ("nsk-0.94", "diphone"),
        ("espeak-m3", "formant"),
        ("speaker 17", "unknown"),
        (None, "unknown"),
    ],
)
def test_voices_of_our_own_synthesis_are_known_and_people_are_never_assumed(voice, kind):
    assert voice_kind(None, voice, "पाऊस") == kind


def test_what_the_row_says_goes_before_the_name_of_the_voice():
    assert voice_kind("people", "espeak-m3", "पाऊस") == "people"


def test_a_word_that_is_no_kind_says_nothing():
    assert voice_kind("sentence", None, "पाऊस") == "unknown"
    assert voice_kind("sentence", "nsk-0.94", "पाऊस") == "diphone"


def test_where_nothing_is_said_nobody_speaks():
    assert voice_kind(None, "silence", "") == "none"


def test_people_are_the_first_of_all_kinds():
    assert VOICE_KINDS[0] == "people"
