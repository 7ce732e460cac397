"""Single optimiser steps, and the schedule of the learning rate."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from train.config import BlockConfig
from train.errors import DataError, TrainError, UnreadBatch
from train.examples.batches import ExamplePlan
from train.loop.checkpoint import Position
from train.loop.metrics import Window
from train.loop.optimiser import AdapterOptimiser, NumberedBatch, learning_rate_factor

CPU = torch.device("cpu")


def example(clip):
    return ExamplePlan(clips=(clip,), duration_s=1.0)


def numbered(number, batch):
    return NumberedBatch(epoch=0, number=number, batch=batch, next_epoch=0, next_number=number + 1)


@pytest.fixture
def stepper(tiny_config, tiny_model, tiny_collator):
    """Return a function that takes one step over batches of these clips and tells what came of it."""

    def step(*batches_of_clips, spoilt=(), unread=(), **changes):
        config = tiny_config(encoder_context="fixed", accumulate_batches=len(batches_of_clips), **changes)
        model, data = tiny_model(config).train(), tiny_collator(config, augmented=False)
        batches = []
        for number, clips in enumerate(batches_of_clips):
            batch = data.collate([example(clip) for clip in clips], (0, number))
            if number in spoilt:
                batch = dataclasses.replace(batch, log_mel=batch.log_mel * math.nan)
            if number in unread:
                batch = UnreadBatch("gone.wav")
            batches.append(numbered(number, batch))
        position, window = Position(), Window()
        AdapterOptimiser(model, config, CPU).step(iter(batches), position, window, 1e-2)
        weights = {name: p.detach() for name, p in model.named_parameters() if "lora_B" in name}
        return weights, position, window

    return step


def test_a_step_changes_the_adapter_and_counts(stepper):
    weights, position, window = stepper([0, 1, 2])
    assert all(weight.abs().max() > 0 for weight in weights.values())  # B began as zeros
    assert position == Position(step=1, batch=1, samples=3)
    assert window.samples == 3 and window.loss > 0


def test_accumulated_batches_weigh_every_token_the_same(stepper):
    together, _, whole = stepper([0, 1, 2, 3])
    apart, position, window = stepper([0, 1, 2], [3])
    assert position == Position(step=1, batch=2, samples=4)
    assert window.loss == pytest.approx(whole.loss, rel=1e-5)
    for (
        name,
        weight,
    ) in together.items():  # Adam's first step is the sign of the gradient, where it is not tiny
        assert (apart[name].sign() == weight.sign()).float().mean() > 0.97


def test_a_batch_without_a_finite_loss_is_skipped_and_counted(stepper):
    alone, _, _ = stepper([0, 1])
    weights, position, window = stepper([0, 1], [2], spoilt={1})
    assert (position.skipped_batches, position.samples, window.samples) == (1, 2, 2)
    assert all(torch.equal(weights[name], alone[name]) for name in alone)


def test_a_step_of_nothing_but_bad_batches_changes_nothing_and_has_no_loss(stepper):
    weights, position, window = stepper([0], [1], spoilt={0, 1})
    assert all(weight.abs().max() == 0 for weight in weights.values())
    assert (position.step, position.skipped_batches, window.losses) == (1, 2, [])


def test_twenty_bad_batches_in_a_row_end_the_run(stepper):
    with pytest.raises(TrainError, match="20 batches in a row: lower learning_rate"):
        stepper(*[[0]] * 20, spoilt=set(range(20)))


def test_a_batch_that_cannot_be_read_is_skipped_and_counted(stepper):
    alone, _, _ = stepper([0, 1])
    weights, position, window = stepper([0, 1], [2], unread={1})
    assert (position.skipped_batches, position.batch, position.samples, window.samples) == (1, 2, 2, 2)
    assert all(torch.equal(weights[name], alone[name]) for name in alone)
    weights, position, _ = stepper([0], [1], unread={0, 1})
    assert all(weight.abs().max() == 0 for weight in weights.values()) and position.step == 1


def test_ten_batches_in_a_row_that_cannot_be_read_end_the_run(stepper):
    stepper(*[[0]] * 19, unread=set(range(19)) - {9})
    with pytest.raises(DataError, match=r"train_data: in 10 batches in a row, gone\.wav; .* same command"):
        stepper(*[[0]] * 11, unread=set(range(1, 11)))


def test_a_gradient_that_is_not_finite_changes_nothing(tiny_config, tiny_model, tiny_collator):
    model = tiny_model(config := tiny_config()).train()
    optimiser = AdapterOptimiser(model, config, CPU)
    adapters = [p for p in model.parameters() if p.requires_grad]
    adapters[0].register_hook(lambda gradient: gradient * math.inf)
    position = Position()
    batch = tiny_collator(config).collate([example(0)], (0, 0))
    optimiser.step(iter([numbered(0, batch)]), position, Window(), 1e-2)
    assert position.skipped_batches == 1
    assert all(torch.isfinite(p).all() for p in adapters)
    assert not optimiser.adamw.state


def test_the_gradient_is_clipped_to_the_norm_asked_for(tiny_config, tiny_model, tiny_collator):
    norms = []
    for limit in (1e9, 1e-3):
        model = tiny_model(config := tiny_config(max_grad_norm=limit)).train()
        optimiser = AdapterOptimiser(model, config, CPU)
        optimiser.adamw.register_step_pre_hook(
            lambda adamw, *_: norms.append(
                math.sqrt(
                    sum(float(p.grad.square().sum()) for group in adamw.param_groups for p in group["params"])
                )
            )
        )
        batch = tiny_collator(config).collate([example(0)], (0, 0))
        optimiser.step(iter([numbered(0, batch)]), Position(), Window(), 1e-2)
    assert norms[0] > 1e-3 and norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_the_rate_warms_up_in_a_line_and_falls_to_zero_along_a_cosine():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0.0)


@pytest.mark.parametrize(("total_steps", "warmup_fraction"), [(1, 0.0), (1, 0.5), (2, 0.99), (10, 0.0)])
def test_the_rate_is_positive_however_short_the_run(total_steps, warmup_fraction):
    for step in range(total_steps):
        assert 0 < learning_rate_factor(step, total_steps, warmup_fraction) <= 1


def test_each_block_moves_at_its_own_rate(stepper):
    (plain, *_), (apart, *_) = stepper([0, 1, 2]), stepper([0, 1, 2], encoder=BlockConfig(learning_rate=1e-3))
    for name, weight in plain.items():  # AdamW's first step is as long as its rate
        share = 0.1 if "encoder." in name else 1.0
        torch.testing.assert_close(apart[name], share * weight, rtol=1e-3, atol=1e-6, msg=name)


def test_the_rate_of_each_block_is_a_share_of_the_schedules(tiny_config, tiny_model):
    for optimiser in ("adamw", "adamw_8bit"):
        config = tiny_config(decoder=BlockConfig(learning_rate=5e-3), optimiser=optimiser)
        model = tiny_model(config)
        groups = AdapterOptimiser(model, config, CPU).adamw.param_groups
        assert [len(group["params"]) for group in groups] == [2 * 2 * 3, 2 * 2 * 5]
