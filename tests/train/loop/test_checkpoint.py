"""Checkpoints: whole or not there, the newest few, and only for the adapter they belong to."""

from __future__ import annotations

import json

import pytest
import torch

from train.errors import DataError
from train.examples.batches import ExamplePlan
from train.loop.checkpoint import (
    Position,
    newest_checkpoint,
    read_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from train.loop.metrics import Window
from train.loop.optimiser import AdapterOptimiser, NumberedBatch

CPU = torch.device("cpu")


def numbered(number, batch):
    return NumberedBatch(epoch=0, number=number, batch=batch, next_epoch=0, next_number=number + 1)


@pytest.fixture
def trained(tiny_config, tiny_model, tiny_collator):
    """A tiny model that has made two steps, and its optimiser."""

    def make(**changes):
        config = tiny_config(**changes)
        model, data = tiny_model(config).train(), tiny_collator(config)
        optimiser = AdapterOptimiser(model, config, CPU)
        batch = data.collate([ExamplePlan(clips=(0,), duration_s=1.0)], (0, 0))
        batches = iter([numbered(0, batch), numbered(1, batch)])
        for _ in range(2):
            optimiser.step(batches, Position(), Window(), 1e-2)
        return model, optimiser.adamw

    return make


def save(directory, model, adamw, step, keep=2):
    return save_checkpoint(directory, model, adamw, Position(step=step, epoch=1, batch=5), keep)


def test_what_is_saved_is_restored(trained, tiny_config, tiny_model, tmp_path):
    model, adamw = trained()
    path = save(tmp_path, model, adamw, 2)
    fresh = tiny_model(tiny_config())
    fresh_adamw = AdapterOptimiser(fresh, tiny_config(), CPU).adamw
    assert restore_checkpoint(read_checkpoint(path), fresh, fresh_adamw) == Position(step=2, epoch=1, batch=5)
    for (name, parameter), (_, restored) in zip(
        model.named_parameters(), fresh.named_parameters(), strict=True
    ):
        assert torch.equal(parameter, restored), name
    moments, restored_moments = adamw.state_dict()["state"], fresh_adamw.state_dict()["state"]
    assert moments.keys() == restored_moments.keys() and len(moments) > 0
    for index, entry in moments.items():
        assert all(torch.equal(entry[name], restored_moments[index][name]) for name in entry)


def test_only_safetensors_and_json_are_written(trained, tmp_path):
    path = save(tmp_path, *trained(), 2)
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter.safetensors",
        "optimiser.safetensors",
        "state.json",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000002"]


def test_the_newest_few_are_kept(trained, tmp_path):
    model, adamw = trained()
    for step in (5, 10, 15, 20):
        save(tmp_path, model, adamw, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000015", "step-000020"]
    assert newest_checkpoint(tmp_path).name == "step-000020"


def test_nothing_is_found_where_nothing_was_saved(tmp_path):
    assert newest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimiser.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_a_half_written_checkpoint_is_passed_over(trained, tmp_path, name, damage):
    model, adamw = trained()
    save(tmp_path, model, adamw, 5)
    file = save(tmp_path, model, adamw, 10) / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    assert newest_checkpoint(tmp_path).name == "step-000005"


def test_a_save_that_was_killed_leaves_the_older_one_and_does_not_disturb_the_next(trained, tmp_path):
    model, adamw = trained()
    save(tmp_path, model, adamw, 5)
    killed = tmp_path / ".step-000010.part"
    killed.mkdir()
    (killed / "state.json").write_text("{}")
    assert newest_checkpoint(tmp_path).name == "step-000005"
    path = save(tmp_path, model, adamw, 10)
    assert json.loads((path / "state.json").read_text())["step"] == 10


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"lora_targets": ("q_proj",)}])
def test_a_checkpoint_of_another_adapter_is_refused_with_advice(
    trained, tiny_config, tiny_model, tmp_path, changes
):
    path = save(tmp_path, *trained(), 5)
    model = tiny_model(config := tiny_config(**changes))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(DataError, match="--resume never"):
        restore_checkpoint(read_checkpoint(path), model, AdapterOptimiser(model, config, CPU).adamw)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_an_adapter_with_more_layers_than_the_checkpoint_is_refused(
    trained, tiny_config, tiny_model, tmp_path
):
    path = save(tmp_path, *trained(lora_targets=("q_proj",)), 5)
    model = tiny_model(tiny_config())
    with pytest.raises(DataError, match="another model or adapter"):
        restore_checkpoint(read_checkpoint(path), model, AdapterOptimiser(model, tiny_config(), CPU).adamw)
