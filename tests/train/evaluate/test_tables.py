"""Results as tables: what a cell says, and what a text may hold without breaking it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from train.data.manifest import Clip
from train.evaluate.confusions import Confusion
from train.evaluate.durations import DurationBucket
from train.evaluate.evaluation import group_scores
from train.evaluate.tables import (
    NO_WORD,
    comparison_rows,
    confusion_rows,
    duration_rows,
    markdown_table,
    score_markdown,
    score_rows,
    score_summary,
    score_table,
    voices_note,
    worst_utterances,
)


@pytest.fixture
def mixed(results):
    """Results on a test set of formants, and on one of people in Hindi and neural voices in Marathi."""
    by_kind = {"people": ("पानी", "पाणी"), "neural": ("पाऊस पडला", "पाऊस पडला")}
    languages = {"people": "hi", "neural": "mr"}
    clips = [
        Clip(
            **{"path": Path("none.wav"), "text": said, "start_s": 0.0, "duration_s": 2.0, "voice": None},
            **{"origin": f"talk.jsonl:{kind}", "kind": kind, "language": languages[kind]},
        )
        for kind, (said, _) in by_kind.items()
    ]
    texts = [written for _, written in by_kind.values()]
    tuned = {"profile": "marathi", **group_scores(clips, texts, ("raw", "marathi"))}
    return {**results, "talk": {"tuned": tuned}}


def test_every_model_has_a_row_in_per_cent_under_the_headline_profile(results):
    rows = score_rows(results)
    assert [row[:6] for row in rows] == [
        ("formant", "mr", "test-everyday", "4", "base", "marathi"),
        ("formant", "mr", "test-everyday", "4", "tuned", "marathi"),
    ]
    *_, wer, cer, script, counts = rows[-1]
    assert wer.startswith("16.7 (0.0 to ") and float(cer) < 10
    assert (script, counts) == ("100", "2 / 0 / 0")


def test_people_stand_first_whatever_test_set_they_are_in_and_the_whole_of_a_mixed_one_last(mixed):
    assert [(row["test_set"], row["kind"], row["language"]) for row in score_summary(mixed)] == [
        ("talk", "people", "all"),
        ("talk", "neural", "all"),
        ("test-everyday", "formant", "mr"),
        ("talk", "all", "all"),
        ("talk", "all", "hi"),
        ("talk", "all", "mr"),
    ]


def test_a_row_of_the_summary_is_flat_and_says_which_profile_compared_it(mixed):
    people, *_, hindi, _ = score_summary(mixed)
    assert people["base"] is None and people["tuned"]["wer"] == 1.0
    assert (people["clips"], people["audio_s"], people["profile"]) == (1, 2.0, "indic")
    assert hindi["tuned"]["cer"] == people["tuned"]["cer"] == 0.25


def test_figures_without_people_come_with_a_warning(results, mixed):
    assert "say little about people" in voices_note(results)
    assert "No recording of people is known" in voices_note(results)
    assert "go by the rows of people" in voices_note(mixed) and "speech in mr, hi" in voices_note(mixed)
    only_people = {"talk": {"tuned": {**mixed["talk"]["tuned"]}}}
    only_people["talk"]["tuned"]["by_kind"] = {"people": mixed["talk"]["tuned"]["by_kind"]["people"]}
    assert "say little" not in voices_note(only_people)


def test_nothing_evaluated_is_said():
    assert score_markdown({}) == "Not evaluated."


def test_the_terminals_table_fits_eighty_columns(results):
    console = Console(width=80, record=True, file=None, force_terminal=False, stderr=True)
    console.print(score_table(results))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 80 for line in lines) and not any("…" in line for line in lines)


def test_the_comparison_says_points_and_clips(results):
    ((test_set, difference, clips),) = comparison_rows(results)
    assert test_set == "test-everyday" and clips == "4 / 0 / 0"
    assert difference.startswith("-") and difference.endswith(") points")
    assert comparison_rows({"only": {"tuned": results["test-everyday"]["base"]}}) == []


def test_both_models_of_a_length_stand_together():
    def bucket(low_s):
        return DurationBucket(
            low_s=low_s, high_s=low_s + 2, utterances=3, wer=0.5, wer_low=0.25, wer_high=0.75
        )

    rows = duration_rows({"base": [bucket(0), bucket(2)], "tuned": [bucket(0), bucket(2)]})
    assert [row[:2] for row in rows] == [
        ("0–2 s", "base"),
        ("0–2 s", "tuned"),
        ("2–4 s", "base"),
        ("2–4 s", "tuned"),
    ]
    assert rows[0][2:] == ("3", "50.0 (25.0 to 75.0)")


def test_confusions_are_numbered_and_a_missing_word_has_a_sign():
    assert confusion_rows([Confusion(reference="घर", hypothesis="", count=3)]) == [("1", "घर", NO_WORD, "3")]


def test_the_worst_come_first_and_the_right_are_not_among_them(results):
    worst = worst_utterances(results["test-everyday"]["tuned"])
    assert [row[-2] for row in worst] == ["घर लाल आहे", "शिक्षणाच्या किती वाटा"]
    assert len(worst_utterances(results["test-everyday"]["base"], limit=2)) == 2


def test_text_cannot_break_a_markdown_table():
    table = markdown_table(("said", "written"), [("a|b", "two\nlines <script>")])
    assert table.splitlines()[2] == "| a\\|b | two lines \\<script> |" and len(table.splitlines()) == 3
