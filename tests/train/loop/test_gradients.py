"""Gradients of batches that do not fit into memory at once; the fault comes from where torch raises it."""

from __future__ import annotations

import pytest
import torch

import train.loop.gradients
from train.errors import TrainError
from train.examples.batches import ExamplePlan
from train.loop.gradients import GradientSum
from train.model.build import batch_loss

CPU = torch.device("cpu")
FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


@pytest.fixture
def small_memory(monkeypatch):
    """Return a function that lets batches of more clips than a limit fail, and lists the sizes tried."""

    def limit(max_clips, fault):
        tried = []

        def bounded(model, batch, device, **precision):
            tried.append(len(batch.log_mel))
            loss, n_tokens = batch_loss(
                model, batch, device, **precision
            )  # half of the work is done when memory ends
            if len(batch.log_mel) > max_clips:
                raise fault
            return loss, n_tokens

        monkeypatch.setattr(train.loop.gradients, "batch_loss", bounded)
        return tried

    return limit


@pytest.fixture
def gradients(tiny_config, tiny_model, tiny_collator):
    """A sum of gradients for a tiny model, its parameters, and a batch of six clips."""
    config = tiny_config(encoder_context="fixed")
    model = tiny_model(config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    examples = [ExamplePlan(clips=(clip,), duration_s=1.0) for clip in (0, 2, 4, 6, 8, 10)]
    batch = tiny_collator(config, augmented=False).collate(examples, (0, 0))
    return GradientSum(model, parameters, CPU, 1.0), parameters, batch


def taken(parameters):
    found = [p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault)[:20] or "MemoryError")
def test_a_batch_that_does_not_fit_is_halved_and_its_gradient_stays_the_same(
    gradients, small_memory, capsys, fault
):
    total, parameters, batch = gradients
    loss, n_tokens = total.add(batch)
    whole = taken(parameters)
    tried = small_memory(2, fault)
    assert total.add(batch) == (pytest.approx(loss, rel=1e-5), n_tokens)
    for ours, theirs in zip(taken(parameters), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]  # 3 is halved to 1
    reports = capsys.readouterr().err.splitlines()
    assert reports == [
        "out of memory with 6 clips of 30.0 s at once: going on with 3",
        "out of memory with 3 clips of 30.0 s at once: going on with 1",
    ]


def test_the_size_that_fitted_is_remembered(gradients, small_memory):
    total, _, batch = gradients
    tried = small_memory(3, FAULTS[0])
    total.add(batch)
    total.add(batch)
    assert tried == [6, 3, 3, 3, 3]


def test_a_single_clip_that_does_not_fit_ends_the_run_with_advice(gradients, small_memory):
    total, parameters, batch = gradients
    small_memory(0, FAULTS[0])
    with pytest.raises(TrainError, match=r"a single clip of 30\.0 s does not fit .* lower max_window_s"):
        total.add(batch)
    assert all(p.grad is None for p in parameters)


def test_other_errors_are_left_alone(gradients, small_memory):
    total, _, batch = gradients
    small_memory(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        total.add(batch)
