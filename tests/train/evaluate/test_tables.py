"""Results as tables: what a cell says, and what a text may hold without breaking it."""

from __future__ import annotations

from rich.console import Console

from train.evaluate.confusions import Confusion
from train.evaluate.durations import DurationBucket
from train.evaluate.tables import (
    NO_WORD,
    comparison_rows,
    confusion_rows,
    duration_rows,
    markdown_table,
    score_markdown,
    score_rows,
    score_table,
    worst_utterances,
)


def test_every_score_has_a_row_in_per_cent(results):
    rows = score_rows(results)
    assert [row[2:4] for row in rows] == [
        ("base", "raw"),
        ("base", "marathi"),
        ("tuned", "raw"),
        ("tuned", "marathi"),
    ]
    test_set, clips, *_, wer, cer, counts = rows[-1]
    assert (test_set, clips, counts) == ("test-everyday", "4", "2 / 0 / 0")
    assert wer.startswith("16.7 (0.0 to ") and float(cer) < 10


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
