"""Whole training loops of a few steps on a tiny Whisper: learning, stopping, going on, bad data."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from msgspec import structs
from safetensors.torch import load_file

from serve.audio.samples import SAMPLE_RATE
from train.config import AugmentConfig
from train.data.filters import DropLog
from train.errors import DataError, TrainError
from train.examples.collate import Collator
from train.loop.distributed import Processes, agents_of
from train.loop.loop import train_adapter
from train.loop.validation import Look, Validation

CPU = torch.device("cpu")
RANDOM = {
    "lora_dropout": 0.1,
    "join_probability": 0.3,
    "augment": AugmentConfig(speed=0.5, volume=0.5, noise=0.5, spec_masks=0.5),
}


def metrics(config):
    return [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]


def losses(config):
    return [row["loss"] for row in metrics(config) if "loss" in row]


class FailsAt(Collator):
    """A collator whose data cannot be read from the batch with this number on."""

    number = 0

    def collate(self, batch, key):
        if tuple(key) >= (0, self.number):
            raise DataError("the disk is gone")
        return super().collate(batch, key)


def failing_at(number, data):
    failing = FailsAt(data.clips, data.config, data.features, data.vocabulary, augmented=True)
    failing.number = number
    return failing


def test_the_loss_falls_and_every_step_is_logged(tiny_config, train):
    config = tiny_config(max_steps=40)
    outcome = train(config)
    assert outcome.finished and outcome.step == outcome.total_steps == 40
    assert [row["step"] for row in metrics(config)] == list(range(1, 41))
    assert np.mean(losses(config)[-5:]) < 0.8 * np.mean(losses(config)[:3])
    assert metrics(config)[-1]["samples"] == outcome.samples > 25
    assert all(row["samples_per_s"] > 0 and row["audio_s_per_s"] > 0 for row in metrics(config))


def test_epochs_decide_the_number_of_steps_where_none_is_given(tiny_config, train):
    config = tiny_config(max_steps=0, epochs=2)
    outcome = train(config)
    assert outcome.samples == 2 * 12
    assert outcome.total_steps == outcome.step and outcome.step % 2 == 0
    assert metrics(config)[0]["epoch"] == 0 and metrics(config)[-1]["epoch"] == 1


def test_validation_is_looked_at_when_due_and_at_the_end_without_touching_training(
    tiny_config, train, tiny_collator
):
    config = tiny_config(max_steps=5, eval_every_steps=2, lora_dropout=0.1)
    train(config, valid_data=tiny_collator(config, augmented=False))
    assert [row["step"] for row in metrics(config) if "valid_loss" in row] == [2, 4, 5]
    unseen = tiny_config(max_steps=5, lora_dropout=0.1, output_dir=config.output_dir / "unseen")
    train(unseen)
    assert losses(unseen) == losses(config)


def test_a_run_that_broke_off_goes_on_exactly_as_if_it_had_not(tiny_config, train, tiny_collator):
    whole = tiny_config(max_steps=6, **RANDOM)
    unbroken = train(whole)
    broken = tiny_config(max_steps=6, output_dir=whole.output_dir.with_name("broken"), **RANDOM)
    with pytest.raises(DataError, match="the disk is gone"):
        train(broken, train_data=failing_at(4, tiny_collator(broken)))
    assert len(losses(broken)) == 4  # one more than the checkpoint at step 3 knows of
    resumed = train(broken)
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-6)
    assert [row["step"] for row in metrics(broken)] == [1, 2, 3, 4, 5, 6]
    assert (resumed.step, resumed.samples) == (unbroken.step, unbroken.samples)
    for name in ("adapter", "optimiser"):
        ours, theirs = (
            (config.output_dir / "checkpoints" / "step-000006" / f"{name}.safetensors").read_bytes()
            for config in (broken, whole)
        )
        assert ours == theirs


def test_a_finished_run_is_not_trained_further(tiny_config, train):
    config = tiny_config(max_steps=3)
    train(config)
    before = (config.output_dir / "metrics.jsonl").read_text()
    outcome = train(config)
    assert outcome.finished and outcome.step == 3
    assert (config.output_dir / "metrics.jsonl").read_text() == before


def test_a_signal_saves_and_returns_unfinished_and_the_next_start_goes_on(tiny_config, train):
    config = tiny_config(max_steps=100_000, save_every_steps=100_000)

    def stop_after_some_steps():
        while len(losses(config) if (config.output_dir / "metrics.jsonl").exists() else []) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_after_some_steps)
    watcher.start()
    outcome = train(config)
    watcher.join()
    assert not outcome.finished and outcome.step >= 3
    (checkpoint,) = (config.output_dir / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{outcome.step:06d}"
    further = train(dataclasses.replace(config, max_steps=outcome.step + 2))
    assert further.finished and further.step == outcome.step + 2


def test_starting_anew_leaves_nothing_of_the_older_run_to_go_on_from(tiny_config, train):
    train(tiny_config(max_steps=6))
    config = tiny_config(max_steps=3, resume="never")
    assert train(config).step == 3
    assert [row["step"] for row in metrics(config)] == [1, 2, 3]
    assert [path.name for path in (config.output_dir / "checkpoints").iterdir()] == ["step-000003"]


def test_starting_anew_deletes_nothing_that_others_put_beside_the_checkpoints(tiny_config, train):
    config = tiny_config(max_steps=3, resume="never")
    directory = config.output_dir / "checkpoints"
    (directory / "step-by-step").mkdir(parents=True)
    (directory / ".step-000002.part").mkdir()
    for name in ("notes.txt", "best.safetensors", "step-by-step/1.txt"):
        (directory / name).write_text("of somebody")
    train(dataclasses.replace(config, max_steps=6))
    train(config)
    names = {path.name for path in directory.iterdir()}
    assert names == {"notes.txt", "step-by-step", "step-000003"}
    assert (directory / "step-by-step" / "1.txt").is_file()


def test_a_run_begins_anew_when_it_is_launched_and_not_when_a_machine_joins(
    tiny_config, tiny_model, tiny_collator
):
    config = tiny_config(max_steps=6, resume="never")
    config.output_dir.mkdir()

    def start(max_steps, *agents):
        further = dataclasses.replace(config, max_steps=max_steps)
        processes = Processes(agents=frozenset(agents))
        train_adapter(tiny_model(config), further, tiny_collator(config), None, CPU, processes)
        return metrics(config)[0]["samples"], len(losses(config))

    start(3, "/tmp/first")
    (config.output_dir / "metrics.jsonl").write_text("")  # what is trained again is logged again
    assert start(6, "/tmp/first", "/tmp/second")[1] == 3
    assert start(6, "/tmp/second")[1] == 3
    assert start(6, "/tmp/third")[1] == 6 and start(6)[1] == 6


def test_time_and_steps_both_make_checkpoints(tiny_config, train):
    config = tiny_config(save_every_steps=100, save_every_s=1e-6, keep_checkpoints=3)
    train(config)
    names = sorted(path.name for path in (config.output_dir / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005", "step-000006"]


@pytest.fixture
def spoilt_manifest(tiny_manifest, tmp_path):
    """The tiny corpus with clips whose samples are not numbers, as a broken recorder writes them."""

    def make(*spoilt):
        directory = shutil.copytree(tiny_manifest.parent, tmp_path / "spoilt")
        for number in spoilt:
            nothing = np.full(round((0.7 + 0.1 * number) * SAMPLE_RATE), np.nan, np.float32)
            soundfile.write(directory / f"{number}.wav", nothing, SAMPLE_RATE, subtype="FLOAT")
        return directory / tiny_manifest.name

    return make


def test_a_batch_without_a_finite_loss_is_skipped_counted_and_the_rest_learnt(
    tiny_config, train, spoilt_manifest
):
    config = tiny_config(max_steps=0, epochs=3, train_data=(str(spoilt_manifest(4)),))
    outcome = train(config)
    assert outcome.finished and outcome.skipped_batches == 3
    assert losses(config).count(None) == 3
    assert all(np.isfinite(loss) for loss in losses(config) if loss is not None)


def test_data_of_which_nothing_can_be_learnt_ends_the_run_with_advice(tiny_config, train, spoilt_manifest):
    config = tiny_config(max_steps=50, train_data=(str(spoilt_manifest(*range(12))),))
    with pytest.raises(TrainError, match="20 batches in a row"):
        train(config)


def test_recordings_that_are_gone_end_the_run_and_are_not_learnt_as_silence(
    tiny_config, train, tiny_collator, tmp_path
):
    config = tiny_config(max_steps=50)
    data, gone = tiny_collator(config), DropLog()
    data.log = gone
    data.clips = [structs.replace(clip, path=tmp_path / "gone.wav") for clip in data.clips]
    with pytest.raises(DataError, match=r"train_data: in 10 batches in a row, .*gone\.wav; .* same command"):
        train(config, train_data=data)
    assert losses(config) == [None] * 9 and len(gone) == 12


@pytest.fixture
def scripted_looks(monkeypatch, tiny_manifest):
    """Return a function that lets the looks at the validation clips find these losses, in turn."""

    def script(*found):
        looks = iter(found)
        monkeypatch.setattr(Validation, "look", lambda *_: Look(losses={"valid": next(looks)}, wers={}))
        return {"valid_data": [str(tiny_manifest)], "eval_every_steps": 2, "max_steps": 12}

    return script


def test_a_run_stops_after_looks_in_vain_and_does_not_begin_again(
    tiny_config, train, tiny_collator, scripted_looks
):
    values = scripted_looks(3.0, 2.0, 2.5, 2.0)
    config = tiny_config(early_stopping_evals=2, **values)
    data = tiny_collator(config, augmented=False)
    outcome = train(config, valid_data=data)
    assert outcome.finished and (outcome.step, outcome.total_steps) == (8, 12)
    assert train(config, valid_data=data).step == 8


def test_the_adapter_of_the_best_look_is_what_the_model_holds_at_the_end(
    tiny_config, tiny_model, tiny_collator, scripted_looks
):
    values = scripted_looks(3.0, 2.0, 2.5, 2.6, 2.7, 2.8)
    config = tiny_config(export_best=True, save_every_steps=4, keep_checkpoints=9, **values)
    model = tiny_model(config)
    data = tiny_collator(config, augmented=False)
    outcome = train_adapter(model, config, tiny_collator(config), data, CPU)
    assert (outcome.step, outcome.best_step) == (12, 4)
    at_best = load_file(config.output_dir / "checkpoints" / "step-000004" / "adapter.safetensors")
    held = dict(model.named_parameters())
    assert all(torch.equal(held[name], value) for name, value in at_best.items())


def test_a_torchrun_is_known_by_the_directory_of_its_files():
    def files(launch, attempt):
        return {"TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_x/RUN_{launch}/attempt_{attempt}/1/error.json"}

    assert agents_of(files("a", 0)) == agents_of(files("a", 1)) == {"/tmp/torchelastic_x/RUN_a"}
    assert agents_of(files("b", 0)) != agents_of(files("a", 0)) and agents_of({}) == frozenset()


def test_a_best_measured_otherwise_is_not_compared_with(tiny_config, train, tiny_collator, scripted_looks):
    values = scripted_looks(0.1, 0.1, 0.5, 0.4, 0.6)
    config = tiny_config(**{**values, "max_steps": 4})
    data = tiny_collator(config, augmented=False)
    train(config, valid_data=data)
    data.clips = [structs.replace(clip, source="others") for clip in data.clips]
    further = dataclasses.replace(config, max_steps=10, export_best=True)
    assert train(further, valid_data=data).best_step == 8
    with pytest.raises(TrainError, match=r"export_best: no validation .* the wer \(marathi\) of"):
        train(dataclasses.replace(further, best_by="wer", valid_clips=2), valid_data=data)


def test_the_best_of_a_run_may_be_asked_for_when_it_goes_on_or_has_ended(
    tiny_config, train, tiny_collator, scripted_looks
):
    values = scripted_looks(3.0, 2.0, 2.5, 2.6)
    config = tiny_config(**{**values, "max_steps": 6})
    data = tiny_collator(config, augmented=False)
    assert train(config, valid_data=data).best_step is None
    further = dataclasses.replace(config, export_best=True)
    assert train(further, valid_data=data).best_step == 4
    (config.output_dir / "checkpoints" / "best.safetensors").unlink()
    further = dataclasses.replace(further, max_steps=8)
    assert train(further, valid_data=data).best_step == 8


def test_the_wer_of_validation_clips_is_among_the_metrics(tiny_config, train, tiny_collator):
    config = tiny_config(max_steps=2, eval_every_steps=2, valid_clips=3)
    train(config, valid_data=tiny_collator(config, augmented=False))
    (look,) = (row for row in metrics(config) if "valid_loss" in row)
    assert look["valid_wer"] > 0


@pytest.mark.parametrize(("lora_rank", "stored_in"), [(16, {torch.float32}), (64, {torch.uint8})])
def test_adamw_in_eight_bits_learns_and_resumes_exactly(
    tiny_config, train, tiny_collator, lora_rank, stored_in
):
    changes = {"optimiser": "adamw_8bit", "lora_targets": ("all-linear",), "lora_rank": lora_rank, **RANDOM}
    whole = tiny_config(**changes)
    train(whole)
    moments = load_file(whole.output_dir / "checkpoints" / "step-000006" / "optimiser.safetensors")
    assert {each.dtype for name, each in moments.items() if name.endswith(".state1")} == stored_in
    broken = tiny_config(output_dir=whole.output_dir.with_name("broken"), **changes)
    with pytest.raises(DataError):
        train(broken, train_data=failing_at(4, tiny_collator(broken)))
    train(broken)
    assert losses(broken) == losses(whole)
    for name in ("adapter", "optimiser"):
        file = f"checkpoints/step-000006/{name}.safetensors"
        assert (broken.output_dir / file).read_bytes() == (whole.output_dir / file).read_bytes()
