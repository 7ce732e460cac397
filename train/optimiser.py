"""One optimiser step: a few batches -> summed gradients -> changed adapter weights. Knows no files."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from peft import PeftModel

from train.checkpoint import Position
from train.collate import Batch
from train.config import TrainConfig
from train.errors import TrainError
from train.metrics import Window
from train.model import batch_loss

_LOSS_SCALE = 1_000.0  # losses are sums over tokens: divided, their gradients stay in the range of fp16
_MAX_BAD_BATCHES = 20

NumberedBatch = tuple[int, int, Batch]
"""(epoch, number within the epoch, batch)."""


class AdapterOptimiser:
    """AdamW over the parameters of a model that require gradients."""

    def __init__(self, model: PeftModel, config: TrainConfig, device: torch.device) -> None:
        self._model = model
        self._config = config
        self._device = device
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._bad_in_a_row = 0

    def step(
        self, batches: Iterator[NumberedBatch], position: Position, window: Window, learning_rate: float
    ) -> None:
        """Take the batches of one step, change the weights, and count in `position` and `window`.

        A batch whose loss is not finite is skipped and counted; a step whose gradient is not finite changes
        nothing.

        Raises:
            TrainError: the loss was not finite for twenty batches in a row.
        """
        loss_sum, n_tokens = 0.0, 0
        for _ in range(self._config.accumulate_batches):
            position.epoch, number, batch = next(batches)
            position.batch = number + 1
            self._seed_dropout(position.epoch, number)
            loss, n_labels = batch_loss(self._model, batch, self._device)
            if not math.isfinite(loss.item()):
                self._skip(position)
                continue
            self._bad_in_a_row = 0
            (loss / _LOSS_SCALE).backward()  # type: ignore[no-untyped-call]
            loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
            window.add(batch)
            position.samples += len(batch.log_mel)
        if n_tokens:
            window.losses.append(loss_sum / n_tokens)
            if not self._apply(n_tokens, learning_rate):
                self._skip(position)
        self.adamw.zero_grad(set_to_none=True)
        position.step += 1

    def _apply(self, n_tokens: int, learning_rate: float) -> bool:
        """Apply the gradients of summed losses as those of the mean over tokens, if they are finite."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(_LOSS_SCALE / n_tokens)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
        if not math.isfinite(norm.item()):
            return False
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        return True

    def _skip(self, position: Position) -> None:
        position.skipped_batches += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= _MAX_BAD_BATCHES:
            raise TrainError(
                f"the loss is not a number for {_MAX_BAD_BATCHES} batches in a row: lower learning_rate"
            )

    def _seed_dropout(self, epoch: int, number: int) -> None:
        """Let dropout follow from the batch's place, as all else does, so that resuming stays exact."""
        state = np.random.SeedSequence([self._config.seed, epoch, number]).generate_state(1)
        torch.manual_seed(int(state[0]))


def learning_rate_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then half a cosine down to zero."""
    warmup_steps = max(1, round(total_steps * warmup_fraction))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
