"""`metrics.jsonl`: what a line holds, and what a resumed run finds there."""

from __future__ import annotations

import json

import pytest

from train.checkpoint import Position
from train.metrics import MetricsLog, Window


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_means_and_rates_since_the_last_one(tmp_path):
    window = Window(trained_s=4.0, losses=[1.0, 3.0], samples=10, audio_s=30.0)
    position = Position(step=2, samples=10, trained_s=4.0)
    MetricsLog(tmp_path / "metrics.jsonl", 0).log(position, window, 1e-3)
    (line,) = lines(tmp_path / "metrics.jsonl")
    assert (line["step"], line["loss"], line["learning_rate"]) == (2, 2.0, 1e-3)
    assert (line["samples_per_s"], line["audio_s_per_s"], line["skipped_batches"]) == (2.5, 7.5, 0)


def test_steps_without_a_loss_are_logged_as_null_and_stay_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, 0).log(Position(step=1), Window(trained_s=1.0), 1e-3)
    assert "NaN" not in path.read_text() and lines(path)[0]["loss"] is None


def test_validation_has_lines_of_its_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, 0).log_valid(Position(step=3), 0.123456)
    assert lines(path) == [{"step": 3, "valid_loss": 0.12346}]


def test_a_run_from_the_start_drops_an_older_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsLog(path, 0)
    assert lines(path) == []


@pytest.mark.parametrize("rest", ["", '{"step": 4, "lo', '{"step": 4}\n{"step": 5}\n{"st'])
def test_a_resumed_run_keeps_what_lies_before_it_even_if_the_last_line_was_cut(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n' + rest)
    log = MetricsLog(path, 3)
    log.log_valid(Position(step=4), 1.0)
    assert [line["step"] for line in lines(path)] == [1, 3, 4]
