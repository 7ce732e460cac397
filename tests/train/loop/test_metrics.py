"""`metrics.jsonl`: what a line holds, and what a resumed run finds there."""

from __future__ import annotations

import json
import re

import pytest

from train.loop.checkpoint import Position
from train.loop.loop import train_adapter
from train.loop.metrics import METRICS, MetricsLog, Window, metric_definitions, metric_line, open_metrics
from train.loop.validation import Look


def look(**losses):
    return Look(losses=losses, wers={})


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
    MetricsLog(path, 0).log_valid(Position(step=3), look(valid=0.123456))
    assert lines(path) == [{"step": 3, "valid_loss": 0.12346}]


def test_each_source_of_validation_clips_has_a_line_below_that_of_their_mean(tmp_path, capsys, results):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.log_valid(Position(step=3), Look(losses={"people": 0.3, "test-everyday": 0.1}, wers={"people": 0.5}))
    log.log_evaluation(3, results)  # of a test set that is called like one of them
    assert lines(path)[:3] == [
        {"step": 3, "valid_loss": 0.2, "valid_wer": 50.0},
        {"step": 3, "set": "people", "valid_loss": 0.3, "valid_wer": 50.0},
        {"step": 3, "set": "test-everyday", "valid_loss": 0.1},
    ]
    assert "metric valid_loss=0.3 valid_wer=50 set=people step=3;" in capsys.readouterr().out


def test_each_kind_of_voice_has_a_line_that_no_source_can_be_taken_for(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    kinds = {"people": (0.613, 0.179), "neural": (0.2, 0.05)}
    found = Look(losses={"people": 0.3, "neural": 0.1}, wers={"people": 0.6, "neural": 0.2}, kinds=kinds)
    MetricsLog(path, 0).log_valid(Position(step=3), found)
    assert lines(path)[3:] == [
        {"step": 3, "set": "kind-people", "valid_wer": 61.3, "valid_cer": 17.9},
        {"step": 3, "set": "kind-neural", "valid_wer": 20.0, "valid_cer": 5.0},
    ]
    assert "metric valid_wer=61.3 valid_cer=17.9 set=kind-people step=3;" in capsys.readouterr().out


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
    log.log_valid(Position(step=4), look(valid=1.0))
    assert [line["step"] for line in lines(path)] == [1, 3, 4]


def test_lines_on_standard_output_have_one_stable_form(tmp_path, capsys, results):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0)
    log.log(Position(step=500), Window(trained_s=2.0, losses=[0.1234], samples=7), 6e-4)
    log.log_valid(Position(step=500), look(valid=0.066))
    log.log_evaluation(1517, results)
    assert capsys.readouterr().out.splitlines() == [
        "metric loss=0.1234 learning_rate=0.0006 samples_per_s=3.5 step=500;",
        "metric valid_loss=0.066 step=500;",
        "metric eval_wer=16.67 eval_cer=3.636 set=test-everyday step=1517;",
    ]


def test_what_is_no_number_is_left_out_of_the_line():
    assert metric_line({"loss": None, "learning_rate": 1e-8}, 3) == "metric learning_rate=1e-08 step=3;"
    assert metric_line({"valid_loss": float("nan")}, 3) == "metric step=3;"
    assert metric_line({"eval_wer": 1234.5}, 3, "my set") == "metric eval_wer=1234 set=my-set step=3;"


def test_an_evaluation_made_again_replaces_the_older_one(tmp_path, results):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.log_valid(Position(step=9), look(valid=1.0))
    for _ in range(2):
        log.log_evaluation(9, results)
    assert [line.get("set") for line in lines(path)] == [None, "test-everyday"]


@pytest.mark.parametrize("test_sets", [(), ("test-everyday", "a (b)")])
def test_definitions_keep_sagemakers_limits(test_sets):
    definitions = metric_definitions(test_sets)
    assert (
        len({each["Name"] for each in definitions}) == len(definitions) == len(METRICS) + 2 * len(test_sets)
    )
    assert all(len(each["Regex"]) <= 500 and re.compile(each["Regex"]).groups == 1 for each in definitions)


def test_more_definitions_than_sagemaker_takes_are_refused():
    with pytest.raises(ValueError, match="takes 40"):
        metric_definitions([f"set-{number}" for number in range(20)])


def test_each_definition_finds_its_own_values_in_the_output_of_a_run(
    tiny_config, tiny_model, tiny_collator, capfd, results
):
    config = tiny_config(max_steps=3, eval_every_steps=3, valid_clips=2)
    config.output_dir.mkdir()
    valid_data = tiny_collator(config, augmented=False)
    train_adapter(
        tiny_model(config),
        config,
        tiny_collator(config),
        valid_data,
        next(tiny_model(config).parameters()).device,
    )
    with open_metrics(config, 3) as metrics:
        metrics.log_evaluation(3, results)
    printed = capfd.readouterr().out
    rows = lines(config.output_dir / "metrics.jsonl")
    for definition in metric_definitions(["test-everyday", "test-other"]):
        name, _, test_set = definition["Name"].partition(":")
        found = [float(value) for value in re.findall(definition["Regex"], printed)]
        expected = [row[name] for row in rows if name in row and test_set in ("", row.get("set"))]
        assert found == pytest.approx(expected, rel=2e-3), definition
        assert found or test_set == "test-other" or name == "distill_loss"  # nothing is distilled here
    assert (config.output_dir / "tensorboard").is_dir()
