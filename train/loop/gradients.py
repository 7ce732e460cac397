"""Turn a batch into gradients of the adapter, in pieces where the whole batch does not fit into memory."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence

import torch
from peft import PeftModel

from serve.audio.samples import FRAMES_PER_S
from train.errors import TrainError
from train.examples.collate import Batch
from train.model.build import batch_loss

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


class GradientSum:
    """Adds gradients of batches to the adapter's `grad`, each batch wholly or not at all.

    A batch that does not fit into memory is halved until it does. Losses are sums over tokens, so the
    gradients of pieces add up to that of the whole. Later batches are split to the size that fitted.
    """

    def __init__(
        self,
        model: PeftModel,
        parameters: Sequence[torch.nn.Parameter],
        device: torch.device,
        loss_scale: float,
        *,
        mixed: bool = False,
    ) -> None:
        """Prepare to differentiate the model's loss by `parameters`.

        `loss_scale` divides the losses; for `mixed` see `batch_loss`.
        """
        self._model = model
        self._parameters = parameters
        self._device = device
        self._loss_scale = loss_scale
        self._mixed = mixed
        self._max_frames: int | None = None  # limit of a piece, padding included

    def add(self, batch: Batch) -> tuple[float, int]:
        """Add the gradient of a batch; return its summed loss and the number of tokens it covers.

        If the loss is not finite, no gradient is added.

        Raises:
            TrainError: A single clip does not fit into memory.
        """
        loss_sum, n_tokens = 0.0, 0
        gradients: list[torch.Tensor | None] = [None] * len(self._parameters)
        waiting = self._split(batch)
        while waiting:
            piece = waiting.pop(0)
            if (differentiated := self._differentiate(piece)) is None:
                self._halve(piece)
                waiting = [half for whole in (piece, *waiting) for half in self._split(whole)]
                continue
            loss, n_labels, found = differentiated
            loss_sum, n_tokens = loss_sum + loss, n_tokens + n_labels
            if not math.isfinite(loss_sum):
                return loss_sum, n_tokens
            gradients = [_added(a, b) for a, b in zip(gradients, found, strict=True)]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = _added(parameter.grad, gradient)
        return loss_sum, n_tokens

    def _differentiate(self, piece: Batch) -> tuple[float, int, Sequence[torch.Tensor | None]] | None:
        """Return summed loss, tokens and gradients of a piece, or None where it does not fit into memory."""
        try:
            loss, n_labels = batch_loss(self._model, piece, self._device, mixed=self._mixed)
            if not math.isfinite(loss.item()):
                return loss.item(), n_labels, [None] * len(self._parameters)
            return (
                loss.item(),
                n_labels,
                torch.autograd.grad(loss / self._loss_scale, self._parameters, allow_unused=True),
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _split(self, batch: Batch) -> list[Batch]:
        n_clips, _, n_frames = batch.log_mel.shape
        if self._max_frames is None or n_clips * n_frames <= self._max_frames:
            return [batch]
        at_once = max(1, self._max_frames // n_frames)
        return [_rows(batch, slice(first, first + at_once)) for first in range(0, n_clips, at_once)]

    def _halve(self, piece: Batch) -> None:
        n_clips, _, n_frames = piece.log_mel.shape
        window = f"of {n_frames / FRAMES_PER_S:.1f} s"
        if n_clips == 1:
            raise TrainError(
                f"a single clip {window} does not fit into memory: lower max_window_s, set"
                " gradient_checkpointing to true, or hold the base in fewer bits (quantization)"
            )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._max_frames = n_clips // 2 * n_frames
        print(
            f"out of memory with {n_clips} clips {window} at once: going on with {n_clips // 2}",
            file=sys.stderr,
            flush=True,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python or torch means that GPU or machine ran out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sign in str(error) for sign in _OUT_OF_MEMORY
    )


def _rows(batch: Batch, rows: slice) -> Batch:
    return dataclasses.replace(
        batch,
        log_mel=batch.log_mel[rows],
        decoder_input_ids=batch.decoder_input_ids[rows],
        labels=batch.labels[rows],
        examples=batch.examples[rows],
    )


def _added(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total.add_(more)
