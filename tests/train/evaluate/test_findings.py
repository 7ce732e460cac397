"""What lies behind the scores of a test set, as Markdown and as pictures in a directory."""

from __future__ import annotations

from train.evaluate.findings import draw_findings, find_findings, findings_markdown


def test_the_findings_are_the_tuned_models_and_compare_both_by_length(results):
    found = find_findings(results["test-everyday"])
    assert (found.label, found.profile) == ("tuned", "marathi")
    assert found.durations.keys() == {"base", "tuned"}
    assert {(each.reference, each.hypothesis) for each in found.confusions} == {
        ("घर", "गर"),
        ("किती", "कीती"),
    }


def test_a_base_model_alone_has_findings_of_its_own(results):
    assert find_findings({"base": results["test-everyday"]["base"]}).label == "base"


def test_the_markdown_holds_every_table_and_escapes_what_was_written(results):
    text = findings_markdown(results)
    assert "| formant | mr | test-everyday | 4 | tuned | marathi | 16.7" in text
    assert "say little about people" in text
    assert "better / worse / same clips" in text and "| 1 | किती | कीती | 1 |" in text
    base = findings_markdown({"t": {"base": results["test-everyday"]["base"]}})
    assert "शिक्षण\\|किती" in base and "\\<b>ghar" in base


def test_pictures_are_named_by_what_they_show(results, tmp_path):
    names = {path.name for path in draw_findings(results, tmp_path / "report")}
    assert names == {"scores.png", "test-everyday-wer-by-duration.png", "test-everyday-confusions.png"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
