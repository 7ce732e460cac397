"""Cross-entropy over the vocabulary, a few rows at a time, so that all logits are never held at once.

Over 51,865 tokens, a batch's logits, their softmax and their gradient are the largest arrays of a training
step. Here each group of rows goes from hidden states to its gradient while it is in the cache, as in Liger
Kernel (arXiv 2410.10989). The output layer is tied to the embeddings and never trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def rows_at_once(device: torch.device) -> int:
    """Return the number of positions whose logits exist at a time; 64 rows take 13 MB, a CPU's cache."""
    return 64 if device.type == "cpu" else 1024


class _OutputLoss(torch.autograd.Function):
    """Sum over rows of -log softmax(hidden W^T)[label], with a gradient for hidden only."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        dtype: torch.dtype,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """Take hidden (n, d_model), W (n_vocabulary, d_model), labels (n,); return a float32 scalar."""
        weight, n_rows, n_labels = weight.to(dtype), rows_at_once(hidden.device), len(labels)
        n_added = -n_labels % n_rows  # equal shapes, because oneDNN compiles a program for each
        hidden, labels = F.pad(hidden, (0, 0, 0, n_added)), F.pad(labels, (0, n_added))
        found, gradients = [], []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, wanted in zip(torch.split(hidden, n_rows), torch.split(labels, n_rows), strict=True):
                logprobs = _logits(rows.to(dtype), weight, bias).log_softmax(dim=-1)
                found.append(logprobs.gather(1, wanted[:, None]).squeeze(1))
                if ctx.needs_input_grad[0]:
                    slope = logprobs.exp_()
                    slope[torch.arange(n_rows), wanted] -= 1
                    gradients.append((slope.to(dtype) @ weight).to(hidden.dtype))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients)[:n_labels])
        return -torch.cat(found)[:n_labels].sum() if found else hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = F.linear(hidden, weight).float()
    return logits if bias is None else logits.add_(bias)


def output_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the summed cross-entropy of an output layer.

    Args:
        hidden: (n, d_model), the positions that carry loss.
        weight: (n_vocabulary, d_model), frozen.
        labels: (n,) int64.
        dtype: Type of the products; losses are always float32.
        bias: (n_vocabulary,) float32, added to the logits.
    """
    loss: torch.Tensor = _OutputLoss.apply(hidden, weight, labels, dtype, bias)
    return loss
