"""Whole runs in this process: what is refused before anything is trained, what a later start may change."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

import train.loop.loop
from serve.model.artifact import load_manifest
from train.config import BlockConfig, load_config
from train.errors import ExportError, TrainConfigError
from train.export.artifact import publish_artifact
from train.loop.distributed import ALONE
from train.run import run


def test_a_place_that_cannot_be_published_to_is_refused_before_anything_is_read(tiny_config, tmp_path):
    (tmp_path / "artifacts" / "another").mkdir(parents=True)
    config = tiny_config(publish_to=tmp_path / "artifacts", train_data=("nonesuch.jsonl",))
    with pytest.raises(ExportError, match=r"publish_to .*artifacts holds something other than an artifact"):
        run(config, ALONE)
    assert (tmp_path / "artifacts" / "another").is_dir() and not config.output_dir.exists()


@pytest.fixture
def finished(tiny_config):
    """The configuration of a run of two steps that has ended."""
    config = tiny_config(max_steps=2, n_threads=1, evaluate_base=False, tensorboard=False)
    assert run(config, ALONE) == 0
    return config


@pytest.fixture
def other_manifest(tiny_manifest, tmp_path):
    """A copy of the corpus without its last clip."""
    directory = shutil.copytree(tiny_manifest.parent, tmp_path / "other")
    file = directory / tiny_manifest.name
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:-1]), "utf-8")
    return str(file)


def test_a_finished_run_is_not_given_out_as_one_of_other_data_or_of_another_shape(
    finished, other_manifest, tmp_path
):
    before = load_manifest(finished.output_dir / "artifact")
    for changes, named in (
        ({"train_data": (other_manifest,)}, r"train_data \(12 clips then, 11 now\)"),
        ({"train_data": (f"{finished.train_data[0]}?weight=2",)}, r"\(12 clips then, as many others now\)"),
        ({"seed": 1}, r"seed \(0 then, 1 now\)"),
        ({"encoder": BlockConfig(rank=2)}, r"encoder\.rank \(4 then, 2 now\), encoder\.alpha"),
        ({"lora_method": "rslora", "task": "translate"}, "task .*, lora_method .*: not as when the run in"),
        ({"continue_from": finished.output_dir / "artifact"}, r"continue_from \(None then, .*artifact now"),
        ({"train_data": (other_manifest,), "max_window_s": 3.0}, "train_data"),
    ):
        with pytest.raises(TrainConfigError, match=rf"{named}.*another --output_dir, .*--resume never"):
            run(dataclasses.replace(finished, **changes), ALONE)
    assert load_manifest(finished.output_dir / "artifact") == before
    assert load_config(finished.output_dir / "config.yaml") == finished


def test_what_no_step_was_made_of_may_change_when_a_run_goes_on(finished, tiny_manifest, tmp_path):
    moved = shutil.copytree(tiny_manifest.parent, tmp_path / "moved") / tiny_manifest.name
    further = dataclasses.replace(
        finished,
        train_data=(str(moved),),
        max_steps=3,
        learning_rate=1e-3,
        lora_targets=("fc1", "v_proj", "q_proj"),
        publish_to=tmp_path / "served",
        log_every_steps=2,
    )
    assert run(further, ALONE) == 0
    assert load_manifest(tmp_path / "served").training["steps"] == 3
    shorter = dataclasses.replace(finished, max_window_s=1.5, max_steps=4)  # as for lack of memory
    assert run(shorter, ALONE) == 0
    assert load_manifest(finished.output_dir / "artifact").training["steps"] == 4


def test_the_mean_is_that_with_the_adapter_that_training_began_from(finished, tmp_path, monkeypatch):
    served = publish_artifact(finished.output_dir / "artifact", tmp_path / "served")
    begun = load_manifest(served)
    trained = train.loop.loop.train_adapter

    def overtaken(*arguments):
        outcome = trained(*arguments)
        another = load_manifest(served)
        (served / "manifest.json").write_text((served / "manifest.json").read_text().replace("tiny", "other"))
        assert load_manifest(served) != another
        return outcome

    config = dataclasses.replace(finished, output_dir=tmp_path / "further", continue_from=served)
    config = dataclasses.replace(config, average_with_start=0.5, publish_to=served)
    monkeypatch.setattr(train.loop.loop, "train_adapter", overtaken)
    assert run(config, ALONE) == 0
    assert load_manifest(served).training["continued_from"]["name"] == begun.name
    monkeypatch.undo()
    again = dataclasses.replace(config, average_with_start=0.25)
    assert run(again, ALONE) == 0  # published over what it continued, it is scored again with another share
    lineage = load_manifest(served).training["continued_from"]
    assert lineage["name"] == begun.name and lineage["training"]["steps"] == 2
