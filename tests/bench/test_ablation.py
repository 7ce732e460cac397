"""The ablation's commands are configurations that the trainer takes, and differ in what they say they do."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.ablation import VARIANTS, command_of, table_of
from train.run import command as train
from train.run import read_config

SOURCES = {
    "neural": ["data/neural.jsonl"],
    "people": ["people/hindi.jsonl?weight=4&label=people"],
    "synthesis": ["data/train.jsonl?weight=0.2"],
}
OF = {
    "config": "train/configs/whisper-base-mr.yaml",
    "steps": 30,
    "batch_s": 24.0,
    "tests": ["people/test.jsonl?label=people", "data/test.jsonl"],
    "max_eval_clips": 5,
}


def config_of(name):
    command = command_of(VARIANTS[name], SOURCES, Path("runs/x"), OF, distill_weight=10.0)
    assert command[1:4] == ["train/run.py", "--config", OF["config"]]
    file = Path(__file__).parents[2] / OF["config"]
    given = train.make_context("train", ["--config", str(file), *command[4:]]).params
    assert given["faults"] == []
    return read_config(given["flags"])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_run_from_the_bare_base_of_the_same_length(name):
    config = config_of(name)
    assert (config.continue_from, config.publish_to, config.max_steps, config.batch_s) == (None, None, 30, 24)
    assert config.test_data == tuple(OF["tests"])
    heard = [kind for kind in SOURCES if SOURCES[kind][0] in config.train_data]
    assert sorted(heard) == sorted(VARIANTS[name].kinds)
    assert config.blocks[0].is_trained == name.startswith("all layers") and config.blocks[1].is_trained
    assert bool(config.distill_data) == VARIANTS[name].holds_encoder


def test_the_table_shows_the_bare_base_and_each_variant():
    scores = {"people": {"wer": 55.04, "cer": 14.0}}
    base = {"people": {"wer": 99.0, "cer": 80.0}}
    runs = {
        "decoder": {"scores": {"tuned": scores, "base": base}, "trained_s": 90},
        "all layers": {"scores": {"tuned": {}}, "trained_s": 60},
    }
    console = Console(width=120, record=True)
    console.print(table_of(runs))
    text = console.export_text()
    assert "bare base" in text and "99.0 / 80.0" in text and "55.0 / 14.0" in text
