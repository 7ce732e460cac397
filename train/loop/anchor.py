"""Keep the encoder close to the base model's during training, by a second gradient every few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from peft import PeftModel

from train.config import TrainConfig
from train.examples.batches import plan_epoch
from train.examples.collate import Collator
from train.loop.distributed import ALONE, Processes
from train.model.build import multiplies_in_bfloat16
from train.model.distillation import encoder_drift

_KEY = 1_000_003  # separates the random choices of these batches from training's


class EncoderAnchor:
    """The recordings of `distill_data`, and the gradient that keeps the encoder close to the base on them.

    The step number alone decides which recordings are used, so that resuming is exact. They are augmented
    like training clips.
    """

    def __init__(
        self,
        model: PeftModel,
        config: TrainConfig,
        data: Collator,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        """Plan batches of the recordings; their transcripts are not used."""
        self._model = model
        self._data = data
        self._device = device
        self._processes = processes
        self._every_steps = config.distill_every_steps
        self._weight = config.distill_weight * config.distill_every_steps
        self._mixed = multiplies_in_bfloat16(config, device)
        self._plan = plan_epoch([clip.duration_s for clip in data.clips], config, 0)

    def is_due(self, step: int) -> bool:
        """Tell whether the step after `step` measures the distance."""
        return step % self._every_steps == 0

    def add_gradient(self, step: int, parameters: Sequence[torch.nn.Parameter], scale: float) -> float:
        """Add the gradient of the weighted distance, times `scale`, and return the distance.

        Each process measures its own recordings, and adds its share of their mean.

        Raises:
            UnreadBatch: None of the recordings of this process can be read.
        """
        number = (step // self._every_steps) * self._processes.count + self._processes.rank
        batch = self._data.collate(self._plan[number % len(self._plan)], (_KEY, number))
        drift = encoder_drift(self._model, batch.log_mel, self._device, mixed=self._mixed)
        distance = drift.item()
        if not math.isfinite(distance):
            return distance
        share = self._weight * scale / self._processes.count
        gradients = torch.autograd.grad(share * drift, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return distance
