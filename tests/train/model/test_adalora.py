"""AdaLoRA around the loop: ranks fall to half, resuming is exact, and plain LoRA comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from serve.service.loading import load_pipeline
from train.errors import DataError, TrainError
from train.examples.batches import ExamplePlan
from train.export.artifact import export_artifact
from train.loop.loop import train_adapter
from train.model.adalora import as_lora
from train.model.build import batch_loss

CPU = torch.device("cpu")
STEPS = 15


@pytest.fixture
def adalora_config(tiny_config):
    def make(**changes):
        config = tiny_config(lora_method="adalora", max_steps=STEPS, save_every_steps=4, **changes)
        config.output_dir.mkdir(parents=True, exist_ok=True)
        return config

    return make


def singular_values(model):
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if "lora_E" in name])


@pytest.fixture
def trained(adalora_config, tiny_model, tiny_collator):
    model = tiny_model(config := adalora_config())
    return model, config, train_adapter(model, config, tiny_collator(config), None, CPU)


def test_half_of_the_ranks_are_left_and_the_loss_is_that_of_plain_lora_after_conversion(
    trained, tiny_collator, tiny_base_dir, speech
):
    model, config, outcome = trained
    kept = singular_values(model) != 0
    assert 0 < int(kept.sum()) <= len(kept) // 2
    batch = tiny_collator(config).collate([ExamplePlan(clips=(3,), duration_s=1.0)], (0, 0))
    with torch.no_grad():
        before, _ = batch_loss(model.eval(), batch, CPU)
        plain = as_lora(model)
        after, _ = batch_loss(plain.eval(), batch, CPU)
    assert after.item() == pytest.approx(before.item(), rel=1e-5)
    assert type(plain.peft_config["default"]) is LoraConfig
    assert sum(plain.peft_config["default"].rank_pattern.values()) == int(kept.sum())

    artifact = export_artifact(plain, tiny_base_dir, config, outcome, ["पाणी"])
    for quantization in ("none", "int8"):
        pipeline = load_pipeline(artifact, quantization=quantization)
        assert pipeline.transcribe_many([speech])[0].text
        pipeline.engine.close()


def test_a_broken_run_ends_with_the_same_weights_as_an_unbroken_one(
    trained, adalora_config, tiny_model, tiny_collator
):
    _, whole, _ = trained
    config = adalora_config(output_dir=whole.output_dir.with_name("broken"))
    data = tiny_collator(config)
    collate = data.collate

    def breaks_off(batch, key):
        if tuple(key) >= (2, 0):
            raise DataError("the disk is gone")
        return collate(batch, key)

    data.collate = breaks_off
    with pytest.raises(DataError):
        train_adapter(tiny_model(config), config, data, None, CPU)
    train_adapter(tiny_model(config), config, tiny_collator(config), None, CPU)
    name = f"step-{STEPS:06d}/adapter.safetensors"
    ours, theirs = (load_file(c.output_dir / "checkpoints" / name) for c in (config, whole))
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, rtol=1e-6, err_msg=key)


def test_a_run_too_short_for_phases_is_refused(adalora_config, tiny_model, tiny_collator):
    config = tiny = adalora_config()
    object.__setattr__(config, "max_steps", 5)
    with pytest.raises(TrainError, match="at least 10 steps"):
        train_adapter(tiny_model(tiny), config, tiny_collator(config), None, CPU)
