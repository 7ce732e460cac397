"""The page of a run: one file that needs nothing else, whatever the run has left behind so far."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from train.config import dump_config
from train.errors import TrainError
from train.report.results import save_results, write_report

ROWS = [
    {
        **{"step": step, "epoch": 0, "loss": 3.0 / step, "learning_rate": 1e-3, "samples_per_s": 2.0},
        **{"audio_s_per_s": 9.0, "samples": 8 * step, "trained_s": 4.0 * step, "skipped_batches": 0},
    }
    for step in range(1, 9)
]


@pytest.fixture
def run_dir(tiny_config):
    """A run directory that holds its configuration alone."""
    config = tiny_config()
    config.output_dir.mkdir()
    (config.output_dir / "config.yaml").write_text(dump_config(config))
    return config.output_dir


class Elements(HTMLParser):
    """Collects the elements of a page and checks that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "source"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_finished_run_has_every_section_in_one_page_that_needs_nothing_else(
    run_dir, tiny_artifact_dir, results
):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (run_dir / "artifact").symlink_to(tiny_artifact_dir)
    left_out = {"reason": "empty text", "origin": "clips.jsonl:3", "detail": "holds no words"}
    (run_dir / "data").mkdir()
    (run_dir / "data" / "left-out.jsonl").write_text(json.dumps(left_out) + "\n")
    save_results(run_dir, results)
    text = write_report(run_dir).read_text("utf-8")
    elements = Elements()
    elements.feed(text)
    assert elements.open == []
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Training",
        "Scores",
        "Test set test-everyday",
        "Lineage",
        "Data left out",
        "Configuration",
    ]
    assert "empty text" in text and "clips.jsonl:3: holds no words" in text
    assert "<td>किती</td><td>कीती</td>" in text
    tags = [tag for tag, _ in elements.seen]
    assert not {"script", "link", "iframe"} & set(tags) and tags.count("img") == 4
    sources = [
        value
        for _, attrs in elements.seen
        for key, value in attrs.items()
        if key in ("src", "srcset", "href")
    ]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "prefers-color-scheme: dark" in text and "url(" not in text and "width=device-width" in text


def test_whatever_a_model_wrote_is_shown_as_text(run_dir, results):
    save_results(run_dir, {"<i>set</i>": {"base": results["test-everyday"]["base"]}})
    text = write_report(run_dir).read_text("utf-8")
    assert "&lt;b&gt;ghar" in text and "<b>ghar" not in text and "<i>set" not in text


def test_a_run_that_has_just_begun_has_a_page_too(run_dir):
    text = write_report(run_dir).read_text("utf-8")
    assert "Nothing was logged yet." in text and "Not evaluated." in text and "no artifact yet" in text


def test_the_page_says_how_each_kind_of_voice_was_heard_at_the_last_look(run_dir):
    looks = [
        {"step": step, "set": f"kind-{kind}", "valid_wer": wer, "valid_cer": wer / 4}
        for step, wers in ((4, (90.0, 50.0)), (8, (62.0, 21.0)))
        for kind, wer in zip(("people", "neural"), wers, strict=True)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *looks]))
    text = write_report(run_dir).read_text("utf-8")
    assert "<dt>validation WER / CER, people</dt><dd>62.0 / 15.5 %</dd>" in text
    assert "90.0" not in text


def test_the_page_warns_where_the_scores_are_of_synthetic_speech(run_dir, results):
    save_results(run_dir, results)
    text = write_report(run_dir).read_text("utf-8")
    assert "say little about people" in text and "<td>formant</td><td>mr</td>" in text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(TrainError, match=r"it has no config\.yaml"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be read"),
        ('{"results": {"t": {"base": {}}}}', "another version: score the artifact again"),
    ],
)
def test_results_that_cannot_be_read_are_named(run_dir, content, named):
    save_results(run_dir, {})
    (run_dir / "report" / "evaluation.json").write_text(content)
    with pytest.raises(TrainError, match=named):
        write_report(run_dir)
