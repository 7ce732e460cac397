"""What is left out of training, why, and how it is told."""

from __future__ import annotations

import pytest
from rich.console import Console

from serve.engine.languages import LANGUAGE_NAMES
from train.data.filters import (
    LANGUAGE_SCRIPTS,
    Drop,
    DropLog,
    Filters,
    HeldOut,
    Reason,
    is_in_script,
    read_drops,
    sentence_key,
    write_drops,
)
from train.errors import DataError


@pytest.mark.parametrize(
    ("text", "language", "fits"),
    [
        ("पाऊस आला", "mr", True),
        ("paus aala", "mr", False),
        ("माझा WhatsApp नंबर सांगा", "mr", True),  # one foreign word in four
        ("میں گھر جا رہا ہوں", "hi", False),
        ("१२ ३४!", "mr", True),
        ("नमस्ते", "en", False),
        ("今日は雨", "ja", True),
        ("paus aala", "xx", True),
    ],
)
def test_a_text_is_in_its_script_if_half_of_its_words_are(text, language, fits):
    assert is_in_script(text, language) is fits


def test_every_language_of_whisper_has_a_script():
    assert all(LANGUAGE_SCRIPTS[language] for language in LANGUAGE_NAMES)


def test_the_same_sentence_is_known_by_other_punctuation_case_and_spaces():
    assert sentence_key("पाऊस  आला।") == sentence_key("पाऊस आला") != sentence_key("पाऊस गेला")
    assert sentence_key("Rain, again!") == "rain again"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("दुसर्\u200dया", "दुसऱ्या"),  # two spellings of the eyelash ra
        ("अॅप", "ॲप"),
        ("शक्\u200cय", "शक्य"),
        ("पा\u200bऊस आ\u2060ला\ufeff", "पाऊस आला"),
        ("co\u00adoperate", "cooperate"),
    ],
)
def test_a_sentence_that_looks_the_same_is_the_same(text, same):
    assert sentence_key(text) == sentence_key(same)


@pytest.mark.parametrize(
    ("text", "voice", "reason", "said"),
    [
        ("  ", None, Reason.EMPTY_TEXT, "the text is empty"),
        ("paus", None, Reason.WRONG_SCRIPT, "'paus' is not written in Devanagari"),
        ("पाऊस आला.", None, Reason.HELD_OUT_TEXT, "also occurs in test.jsonl:4"),
        ("दार उघड", "asha", Reason.HELD_OUT_VOICE, "voice 'asha' also speaks in test.jsonl:9"),
    ],
)
def test_a_row_that_may_not_be_used_is_told_why(text, voice, reason, said):
    held_out = HeldOut({sentence_key("पाऊस आला"): "test.jsonl:4"}, {"asha": "test.jsonl:9"})
    fault = Filters(language="mr", held_out=held_out).text_fault(text, None, voice)
    assert fault is not None and fault[0] is reason and said in fault[1]


def test_lengths_have_two_limits():
    filters = Filters(min_duration_s=0.5, max_duration_s=30)
    assert filters.duration_fault(0.4) == (Reason.TOO_SHORT, "lasts 0.40 s; the least is 0.5 s")
    assert filters.duration_fault(2400) == (Reason.TOO_LONG, "lasts 2400.0 s; the limit is 30 s")
    assert filters.duration_fault(30) is None


def test_rows_are_counted_by_reason_with_a_few_examples_and_all_of_them_in_a_file(tmp_path):
    log = DropLog()
    for line in range(1, 9):
        log.drop(Reason.MISSING, f"rows.jsonl:{line}", "a.wav does not exist")
    log.drop(Reason.EMPTY_TEXT, "rows.jsonl:9", "the text is empty")
    log.drop(Reason.EMPTY_TEXT, "rows.jsonl:9", "the text is empty")  # again, in the next epoch
    assert log.counts == {"missing file": 8, "empty text": 1} and len(log) == 9
    console = Console(record=True, width=100)
    log.report(console, tmp_path / "data" / "left-out.jsonl")
    told = console.export_text()
    assert "rows.jsonl:5" in told and "rows.jsonl:6" not in told and "and 3 more" in told
    written = list(read_drops((tmp_path / "data" / "left-out.jsonl").read_text("utf-8")))
    assert written == log.dropped


def test_dropped_rows_are_read_back_whatever_their_texts_hold():
    detail = "'one\u2028two\u2029three\x85four\x0bfive\nsix' is not written in Devanagari"
    dropped = [Drop(reason=Reason.WRONG_SCRIPT, origin=f"rows.jsonl:{n}", detail=detail) for n in (1, 2)]
    assert list(read_drops(write_drops(dropped))) == dropped
    assert list(read_drops("")) == []


def test_a_strict_log_raises_at_the_first_row_with_its_file_and_line():
    with pytest.raises(DataError, match=r"^rows\.jsonl:3: a\.wav does not exist$"):
        DropLog(strict=True).drop(Reason.MISSING, "rows.jsonl:3", "a.wav does not exist")
