"""Training with the encoder held near its base: how strongly, how often, and the same after a break."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from msgspec import structs

from train.config import BlockConfig
from train.data.filters import DropLog
from train.errors import DataError
from train.loop.anchor import EncoderAnchor
from train.loop.distributed import Processes
from train.loop.loop import train_adapter
from train.model.distillation import encoder_drift

CPU = torch.device("cpu")


@pytest.fixture
def held(tiny_config, tiny_manifest):
    """Return a function that makes a configuration which holds the encoder on the tones it trains on."""

    def make(weight, **changes):
        values = {"distill_data": (str(tiny_manifest),), "distill_weight": weight, "distill_every_steps": 2}
        return tiny_config(**{**values, **changes})

    return make


def run(config, tiny_model, tiny_collator):
    config.output_dir.mkdir(parents=True, exist_ok=True)
    model, data = tiny_model(config), tiny_collator(config)
    train_adapter(model, config, data, None, CPU, distill_data=data)
    return model


def test_a_held_encoder_stays_nearer_to_its_base(held, tiny_model, tiny_collator, tmp_path):
    drifts = []
    for weight in (1e-6, 100.0):
        config = held(weight, output_dir=tmp_path / str(weight), max_steps=12)
        model = run(config, tiny_model, tiny_collator).eval()
        batch = tiny_collator(config, augmented=False)
        log_mel = batch.collate(EncoderAnchor(model, config, batch, CPU)._plan[0], (0, 0)).log_mel
        drifts.append(encoder_drift(model, log_mel, CPU).item())
        rows = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "distill_loss" in row] == [1, 3, 5, 7, 9, 11]
    assert drifts[1] < 0.5 * drifts[0]


def test_the_pull_does_not_depend_on_how_often_it_is_measured_or_by_how_many(held, tiny_model, tiny_collator):
    def pull(config, processes=None):
        model = tiny_model(config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.05)
        data = tiny_collator(config)
        parameters = [p for p in model.parameters() if p.requires_grad]
        anchor = EncoderAnchor(model, config, data, CPU, processes or Processes())
        anchor.add_gradient(0, parameters, 1.0)
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    often = pull(held(3.0, distill_every_steps=1))
    torch.testing.assert_close(pull(held(1.0, distill_every_steps=3)), often)
    torch.testing.assert_close(pull(held(3.0, distill_every_steps=1), Processes(count=2)), often / 2)


def test_a_resumed_run_is_held_as_an_unbroken_one(held, tiny_model, tiny_collator, tmp_path):
    whole = run(held(10.0, output_dir=tmp_path / "whole"), tiny_model, tiny_collator)
    run(held(10.0, output_dir=tmp_path / "broken"), tiny_model, tiny_collator)
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "step-000006")  # as if stopped after the third
    broken = run(held(10.0, output_dir=tmp_path / "broken"), tiny_model, tiny_collator)
    for (name, p), (_, q) in zip(whole.named_parameters(), broken.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_recordings_to_hold_by_that_are_gone_are_skipped_and_end_the_run_in_the_end(
    held, tiny_model, tiny_collator, tmp_path
):
    config = held(1.0, max_steps=50, distill_every_steps=1)
    config.output_dir.mkdir(parents=True)
    gone = tiny_collator(config)
    gone.log = DropLog()
    gone.clips = [structs.replace(clip, path=tmp_path / "gone.wav") for clip in gone.clips]
    with pytest.raises(DataError, match="distill_data: in 10 batches in a row"):
        train_adapter(tiny_model(config), config, tiny_collator(config), None, CPU, distill_data=gone)
    rows = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 10 and not any("distill_loss" in row for row in rows)


def test_steps_between_do_not_measure(held, tiny_model, tiny_collator):
    config = held(1.0, encoder=BlockConfig(rank=2))
    anchor = EncoderAnchor(tiny_model(config), config, tiny_collator(config), CPU)
    assert [step for step in range(6) if anchor.is_due(step)] == [0, 2, 4]
