"""One optimiser step: a few batches -> summed gradients -> changed adapter weights. Knows no files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel

from train.config import TrainConfig
from train.errors import DataError, TrainError, UnreadBatch
from train.examples.collate import Batch
from train.loop.anchor import EncoderAnchor
from train.loop.checkpoint import Position
from train.loop.distributed import ALONE, Processes
from train.loop.gradients import GradientSum
from train.loop.metrics import Window
from train.model.adalora import RankAllocation
from train.model.adapter import block_of
from train.model.build import multiplies_in_bfloat16

_LOSS_SCALE = 1_000.0  # divides losses, which are sums over tokens, so that gradients stay in fp16's range
_MAX_BAD_BATCHES = 20
_MAX_UNREAD_BATCHES = 10
"""Batches in a row that a process may fail to read: a few broken clips pass, a missing directory does not."""


@dataclass(frozen=True, kw_only=True)
class NumberedBatch:
    """A batch of this process, and the run's position once all processes have finished theirs."""

    epoch: int
    number: int
    """Number within the epoch."""
    batch: Batch | UnreadBatch
    """Its tensors, or why no clip of it can be read."""
    next_epoch: int
    next_number: int
    """Number of the batch that follows the last one taken by any process."""


class AdapterOptimiser:
    """AdamW over a model's trainable parameters, in step with the other processes."""

    def __init__(
        self,
        model: PeftModel,
        config: TrainConfig,
        device: torch.device,
        processes: Processes = ALONE,
        total_steps: int = 0,
        anchor: EncoderAnchor | None = None,
    ) -> None:
        """Optimise the trainable parameters of `model`; AdaLoRA plans its ranks for `total_steps`.

        `anchor` keeps the encoder close to the base model's.
        """
        self._config = config
        self._anchor = anchor
        self._processes = processes
        groups = _parameter_groups(model, config)
        self._parameters = [parameter for parameters, _ in groups for parameter in parameters]
        self._rates = [rate / config.learning_rate for _, rate in groups]  # relative to the run's rate
        mixed = multiplies_in_bfloat16(config, device)
        self._gradients = GradientSum(model, self._parameters, device, _LOSS_SCALE, mixed=mixed)
        self._ranks = RankAllocation(model, total_steps) if config.lora_method == "adalora" else None
        self.adamw = _adamw([parameters for parameters, _ in groups], config, device)
        self._bad_in_a_row = 0
        self._unread: dict[str, list[UnreadBatch]] = {"train_data": [], "distill_data": []}  # in a row

    def step(
        self, batches: Iterator[NumberedBatch], position: Position, window: Window, learning_rate: float
    ) -> None:
        """Take the batches of one step, update the weights, and count in `position` and `window`.

        A batch whose loss is not finite, or of which no clip can be read, is skipped and counted. A step
        whose gradient is not finite changes no weight. Counts and gradients are summed over all processes, so
        that they stay in step.

        Raises:
            TrainError: The loss was not finite for twenty batches in a row, or a clip does not fit in memory.
            DataError: A process could read no clip of ten batches in a row.
        """
        share, loss_sum, n_tokens, n_bad, n_unread = Window(), 0.0, 0, 0, 0
        n_batches = self._config.accumulate_batches * position.n_processes
        for _ in range(math.ceil(n_batches / self._processes.count)):
            numbered = next(batches)
            position.epoch, position.batch = numbered.next_epoch, numbered.next_number
            if isinstance(numbered.batch, UnreadBatch):
                n_unread += 1
                self._unread["train_data"].append(numbered.batch)
                continue
            self._unread["train_data"].clear()
            self._seed_dropout(numbered.epoch, numbered.number)
            loss, n_labels = self._gradients.add(numbered.batch)
            if not math.isfinite(loss):
                n_bad += 1
                continue
            loss_sum, n_tokens = loss_sum + loss, n_tokens + n_labels
            share.add(numbered.batch)
        lost = any(len(in_a_row) >= _MAX_UNREAD_BATCHES for in_a_row in self._unread.values())
        loss_sum, all_tokens, samples, audio_s, all_bad, all_unread, n_lost = self._processes.sum(
            [loss_sum, n_tokens, share.samples, share.audio_s, n_bad, n_unread, lost]
        )
        if n_lost:
            self._give_up()
        window.samples += int(samples)
        window.audio_s += audio_s
        position.samples += int(samples)
        if all_tokens:
            self._bad_in_a_row = 0
            window.losses.append(loss_sum / all_tokens)
            if self._anchor and self._anchor.is_due(position.step):
                self._hold(self._anchor, position.step, all_tokens, window)
            if not self._apply(all_tokens, learning_rate, position.step + 1):
                all_bad += 1
        self.adamw.zero_grad(set_to_none=True)
        position.step += 1
        position.skipped_batches += int(all_unread)
        self._skip(int(all_bad), position)

    def _hold(self, anchor: EncoderAnchor, step: int, n_tokens: float, window: Window) -> None:
        """Add the gradient that keeps the encoder close to the base model's, unless its clips are unread."""
        try:
            distance = anchor.add_gradient(step, self._parameters, n_tokens / _LOSS_SCALE)  # see `_apply`
        except UnreadBatch as error:
            self._unread["distill_data"].append(error)
            return
        self._unread["distill_data"].clear()
        window.distances.append(distance)

    def _apply(self, n_tokens: float, learning_rate: float, step: int) -> bool:
        """Scale summed gradients to the mean over tokens, and apply them if they are finite."""
        self._processes.sum_gradients(self._parameters)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(_LOSS_SCALE / n_tokens)
        if self._ranks:
            self._ranks.regularise()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        if not math.isfinite(norm.item()):
            return False
        for group, factor in zip(self.adamw.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * factor
        self.adamw.step()
        if self._ranks:
            self._ranks.reallocate(step)
        return True

    def _give_up(self) -> None:
        """End the run in all processes, with the reason of the one that cannot read its batches.

        Raises:
            DataError: Says which data cannot be read.
        """
        ours = {key: found for key, found in self._unread.items() if len(found) >= _MAX_UNREAD_BATCHES}
        reasons = [f"{key}: in {len(found)} batches in a row, {found[-1]}" for key, found in ours.items()]
        told = self._processes.gather({self._processes.rank: "; ".join(reasons)})
        reason = next(filter(None, told.values()))
        raise DataError(f"{reason}; once they can be read, the same command goes on from the last checkpoint")

    def _skip(self, n_batches: int, position: Position) -> None:
        position.skipped_batches += n_batches
        self._bad_in_a_row += n_batches
        if self._bad_in_a_row >= _MAX_BAD_BATCHES:
            raise TrainError(
                f"the loss is not a number for {_MAX_BAD_BATCHES} batches in a row: lower learning_rate"
            )

    def _seed_dropout(self, epoch: int, number: int) -> None:
        """Seed dropout by the batch's place in the plan, so that resuming is exact."""
        state = np.random.SeedSequence([self._config.seed, epoch, number]).generate_state(1)
        torch.manual_seed(int(state[0]))


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then half a cosine down to zero."""
    warmup_steps = max(1, round(total_steps * warmup_fraction))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _parameter_groups(model: PeftModel, config: TrainConfig) -> list[tuple[list[torch.nn.Parameter], float]]:
    """Return the trained parameters of each block that has any, with its peak learning rate."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        ([p for name, p in trained.items() if block_of(name) == block.name], block.learning_rate)
        for block in config.blocks
    ]
    return [(parameters, rate) for parameters, rate in groups if parameters]


def _adamw(
    groups: list[list[torch.nn.Parameter]], config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    parameters = [{"params": group} for group in groups]
    if config.optimiser == "adamw_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit

        eight_bit: torch.optim.Optimizer = AdamW8bit(  # type: ignore[no-untyped-call]
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        return eight_bit
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
