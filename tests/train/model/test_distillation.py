"""The encoder's distance from the base model's: zero to begin with, and pulled back when it grows."""

from __future__ import annotations

import pytest
import torch

from train.config import BlockConfig
from train.examples.batches import ExamplePlan
from train.model.distillation import encoder_drift

CPU = torch.device("cpu")


@pytest.fixture
def log_mel(tiny_config, tiny_collator):
    examples = [ExamplePlan(clips=(clip,), duration_s=1.0) for clip in (0, 5)]
    return tiny_collator(tiny_config()).collate(examples, (0, 0)).log_mel


def move(model, block):
    for name, parameter in model.named_parameters():
        if "lora_B" in name and f"{block}." in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_a_fresh_adapter_and_one_of_the_decoder_move_nothing(tiny_config, tiny_model, log_mel):
    model = tiny_model(tiny_config())
    assert encoder_drift(model, log_mel, CPU).item() == pytest.approx(0, abs=1e-10)
    move(model, "decoder")
    assert encoder_drift(model, log_mel, CPU).item() == pytest.approx(0, abs=1e-10)


def test_the_distance_is_a_share_of_the_base_and_its_gradient_leads_back(tiny_config, tiny_model, log_mel):
    model = tiny_model(tiny_config(decoder=BlockConfig(rank=0))).train()
    move(model, "encoder")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    distances = []
    for _ in range(20):
        optimiser.zero_grad()
        drift = encoder_drift(model, log_mel, CPU)
        drift.backward()
        optimiser.step()
        distances.append(drift.item())
    assert 0 < distances[0] < 4 and distances[-1] < 0.5 * distances[0]
    assert all(torch.isfinite(p.grad).all() for p in parameters)
