"""Compute a LoRA layer as one matrix product instead of three, for unquantised bases.

On a CPU, `W x + s B A x` costs a third more than `W x`: two narrow products, a scaling and an addition each
pass over all activations. Here `W + s B A`, which is small against a batch, is formed once per step and
multiplied once. The backward pass computes the gradients of A and B from narrow products alone. The result is
equal up to rounding. Written by hand, because peft computes the three products.

Under autocast a CPU multiplies with oneDNN, which compiles a program for every number of rows; on a processor
with AMX that takes as long as running it. So rows are padded to a few numbers, and programs are reused.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

_FUSED = (torch.float32, torch.float64)  # a bfloat16 base is too coarse to add B A to

_ROWS_STEP = 256
"""The number of rows in a oneDNN product is a multiple of this."""


class _FusedProduct(torch.autograd.Function):
    """y = x (W + s B A)^T + b, with gradients for x, A and B only.

    Under autocast the sum is formed in float32 and rounded once; all products are in autocast's dtype.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Take x (..., n_in), W (n_out, n_in), A (rank, n_in), B (n_out, rank); return (..., n_out)."""
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else weight.dtype
        n_rows = x.numel() // x.shape[-1]
        with torch.autocast(device, enabled=False):
            rows = _filled_rows(x, dtype)
            merged = torch.addmm(weight, lora_b, lora_a, alpha=scaling).to(dtype)
            ctx.save_for_backward(rows, merged, lora_a, lora_b)
            ctx.scaling = scaling
            product = nn.functional.linear(rows, merged, None if bias is None else bias.to(dtype))
        return product[:n_rows].view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, merged, lora_a, lora_b = ctx.saved_tensors
        shape, n_rows = grads[0].shape, grads[0].numel() // grads[0].shape[-1]
        grad = _filled_rows(grads[0], merged.dtype)
        grad_x = (grad @ merged)[:n_rows].view(*shape[:-1], -1) if ctx.needs_input_grad[0] else None
        grad_a = ((grad @ lora_b.to(grad.dtype)).t() @ rows).to(lora_a.dtype).mul_(ctx.scaling)
        grad_b = (grad.t() @ (rows @ lora_a.t().to(grad.dtype))).to(lora_b.dtype).mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None


def _filled_rows(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return x (..., n) as rows (n_rows, n) of a dtype, padded with zero rows where oneDNN multiplies."""
    rows = x.reshape(-1, x.shape[-1])
    n_rows = len(rows)
    n_added = -n_rows % _ROWS_STEP if x.device.type == "cpu" and dtype == torch.bfloat16 else 0
    if not n_added:
        return rows.to(dtype)
    filled = rows.new_empty((n_rows + n_added, rows.shape[1]), dtype=dtype)
    filled[:n_rows] = rows
    filled[n_rows:] = 0
    return filled


class FusedLoraLinear(LoraLinear):
    """peft's LoRA layer with a fused product; parameters, names and saved files stay the same."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output for x (..., n_in)."""
        if self.disable_adapters or self.merged:
            unfused: torch.Tensor = super().forward(x, *args, **kwargs)
            return unfused
        (name,) = self.active_adapters
        base = self.base_layer
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        fused: torch.Tensor = _FusedProduct.apply(x, base.weight, base.bias, a, b, self.scaling[name])
        return fused


class RoundedOnceNorm(nn.LayerNorm):
    """A layer norm that returns autocast's dtype, so that the next layers need not each convert it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised, device = super().forward(x), x.device.type
        if not torch.is_autocast_enabled(device):
            return normalised
        return normalised.to(torch.get_autocast_dtype(device))


def fuse_lora(model: PeftModel) -> int:
    """Fuse LoRA layers of a model where possible, in place, and return their number.

    Layers with dropout, DoRA, or a base that is quantised or in bfloat16 keep peft's own forward.
    """
    fused = 0
    for module in model.modules():
        if type(module) is not LoraLinear or module.lora_variant:
            continue
        plain_base = type(module.base_layer) is nn.Linear and module.base_layer.weight.dtype in _FUSED
        no_dropout = all(isinstance(dropout, nn.Identity) for dropout in module.lora_dropout.values())
        if plain_base and no_dropout:
            module.__class__ = FusedLoraLinear
            fused += 1
    for module in model.modules() if fused else ():
        if type(module) is nn.LayerNorm:
            module.__class__ = RoundedOnceNorm
    return fused
