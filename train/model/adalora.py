"""AdaLoRA (Zhang et al., arXiv 2303.10512): move rank to the layers that need it, and end as plain LoRA.

peft implements the method. This module adds what a custom loop needs: the schedule, the call after each step,
the orthogonality regulariser, the state for checkpoints, and the conversion to an adapter that any engine
loads.
"""

from __future__ import annotations

import typing
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.adalora import AdaLoraModel, SVDLinear
from transformers import PreTrainedModel

from train.errors import TrainError

_MIN_STEPS = 10
_ADAPTER = "default"


class RankAllocation:
    """The rank schedule: full rank for a tenth of the run, falling to half, fixed for the last third."""

    def __init__(self, model: PeftModel, total_steps: int) -> None:
        """Plan for `total_steps` optimiser steps.

        Raises:
            TrainError: The run is too short for the schedule.
        """
        if total_steps < _MIN_STEPS:
            raise TrainError(
                f"lora_method adalora needs at least {_MIN_STEPS} steps to allocate ranks, not {total_steps}"
            )
        self._tuner = typing.cast(AdaLoraModel, model.base_model)
        self._config = _config(model)
        self._config.total_step = total_steps
        self._config.tinit = total_steps // 10
        self._config.tfinal = total_steps // 3
        self._config.deltaT = max(1, total_steps // 200)
        self._factors = [
            parameter for name, parameter in model.named_parameters() if "lora_A" in name or "lora_B" in name
        ]

    def regularise(self) -> None:
        """Add the gradient of |A A^T - 1| + |B^T B - 1|, averaged over the layers, to the loss's gradient."""
        distance = torch.stack([_distance_from_orthogonal(factor) for factor in self._factors]).mean()
        gradients = torch.autograd.grad(self._config.orth_reg_weight * distance, self._factors)
        for factor, gradient in zip(self._factors, gradients, strict=True):
            assert factor.grad is not None
            factor.grad.add_(gradient)

    def reallocate(self, step: int) -> None:
        """Update the importance of each rank, and drop the least; call between a step and `zero_grad`."""
        fixed = step > (self._config.total_step or 0) - self._config.tfinal
        if fixed and not self._config.rank_pattern:
            return  # the step that fixes the ranks was skipped: keep all
        self._tuner.update_and_allocate(step)  # type: ignore[no-untyped-call]


def rank_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the allocation's state for a checkpoint, by name; empty for other methods."""
    if not isinstance(model.base_model, AdaLoraModel):
        return {}
    allocator = model.base_model.rankallocator
    return {
        **{f"worth.{name}": value for name, value in allocator.exp_avg_ipt.items()},
        **{f"spread.{name}": value for name, value in allocator.exp_avg_unc.items()},
        **{f"kept.{name}": torch.tensor(kept) for name, kept in (_config(model).rank_pattern or {}).items()},
    }


def restore_ranks(model: PeftModel, tensors: dict[str, torch.Tensor]) -> None:
    """Restore the state that `rank_tensors` returned."""
    if not isinstance(model.base_model, AdaLoraModel):
        return
    allocator, device = model.base_model.rankallocator, next(model.parameters()).device
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "kept":
            config = _config(model)
            config.rank_pattern = {**(config.rank_pattern or {}), name: value.tolist()}
        else:
            averages = allocator.exp_avg_ipt if kind == "worth" else allocator.exp_avg_unc
            averages[name] = value.to(device)
            allocator.ipt[name] = torch.zeros_like(averages[name])


def as_lora(model: PeftModel) -> PeftModel:
    """Convert a trained AdaLoRA model to plain LoRA layers with the remaining ranks, in place.

    `s B diag(E) A` becomes `B A'` with `A' = s diag(E) A`, without the rows where E is zero.
    """
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, SVDLinear):
            layer: Any = module  # peft types its dictionaries as tensors
            singular_values = layer.lora_E[_ADAPTER].detach()  # (rank, 1)
            kept = singular_values[:, 0] != 0
            scale = layer.scaling[_ADAPTER] / (layer.ranknum[_ADAPTER] + 1e-5)
            lora_a = scale * singular_values[kept] * layer.lora_A[_ADAPTER].detach()[kept]
            if kept.any():
                factors[name] = (lora_a, layer.lora_B[_ADAPTER].detach()[:, kept])
    if not factors:
        raise TrainError(
            "lora_method adalora left no rank in any layer: train longer, or with another method"
        )
    ranks = {name: len(lora_a) for name, (lora_a, _) in factors.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),  # alpha / rank is 1 everywhere
        lora_dropout=_config(model).lora_dropout,
        target_modules=sorted(ranks),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
    )
    base = typing.cast(PreTrainedModel, typing.cast(Any, model.base_model).unload())
    plain = typing.cast(PeftModel, get_peft_model(base, config))
    layers = dict(plain.get_base_model().named_modules())
    with torch.no_grad():
        for name, (lora_a, lora_b) in factors.items():
            layer = typing.cast(Any, layers[name])
            layer.lora_A[_ADAPTER].weight.copy_(lora_a)
            layer.lora_B[_ADAPTER].weight.copy_(lora_b)
    return plain


def _config(model: PeftModel) -> AdaLoraConfig:
    return typing.cast(AdaLoraConfig, model.peft_config[_ADAPTER])


def _distance_from_orthogonal(factor: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius distance of A (rank, n_in) or B (n_out, rank) from orthonormality."""
    ranks = factor if factor.shape[0] <= factor.shape[1] else factor.T
    distance: torch.Tensor = torch.linalg.matrix_norm(
        ranks @ ranks.T - torch.eye(len(ranks), device=factor.device)
    )
    return distance
