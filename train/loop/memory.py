"""Estimate the memory of a training run from the model and its largest batch, before the first step.

Activations are counted layer by layer, as Whisper's backward pass needs them. The estimate is within a factor
of 1.5 of the peak memory in use; freed memory that an allocator keeps is not counted.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import WhisperConfig

from serve.audio.features import MAX_WINDOW_S
from train.config import TrainConfig
from train.examples.batches import ExamplePlan, plan_epoch
from train.examples.collate import IGNORED, Batch
from train.model.build import multiplies_in_bfloat16
from train.model.output_loss import rows_at_once

_GIB = 1 << 30
_MOMENT_BYTES = {"adamw": 8.0, "adamw_8bit": 2.1}  # per parameter: two moments; in 8 bits a scale per 256


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Memory by use, in bytes."""

    base_bytes: int
    adapter_bytes: int
    """Weights and gradients of the adapter."""
    optimiser_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.base_bytes + self.adapter_bytes + self.optimiser_bytes + self.activation_bytes

    def __str__(self) -> str:
        parts = {
            "base": self.base_bytes,
            "adapter": self.adapter_bytes,
            "optimiser": self.optimiser_bytes,
            "activations": self.activation_bytes,
        }
        listed = ", ".join(f"{name} {n_bytes / _GIB:.2f}" for name, n_bytes in parts.items())
        return f"memory: about {self.total_bytes / _GIB:.2f} GiB ({listed})"


def largest_batch(durations_s: Sequence[float], config: TrainConfig) -> list[ExamplePlan]:
    """Return the batch of the first epoch with the most audio, padding and margin included."""

    def window_s(example: ExamplePlan) -> float:
        fixed = config.encoder_context == "fixed"
        return MAX_WINDOW_S if fixed else example.duration_s + config.window_margin_s[1]

    return max(plan_epoch(durations_s, config, 0), key=lambda batch: len(batch) * max(map(window_s, batch)))


def estimate_memory(
    model: PeftModel, config: TrainConfig, batch: Batch, device: torch.device
) -> MemoryEstimate:
    """Return the memory of the model and of one step over `batch`, in bytes."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [p for p in (*model.parameters(), *model.buffers()) if not p.requires_grad]
    n_trained = sum(parameter.numel() for parameter in trained)
    return MemoryEstimate(
        base_bytes=_n_bytes(frozen),
        adapter_bytes=2 * _n_bytes(trained),
        optimiser_bytes=int(_MOMENT_BYTES[config.optimiser] * n_trained),
        activation_bytes=_activation_bytes(model, config, batch, device),
    )


def _n_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activation_bytes(model: PeftModel, config: TrainConfig, batch: Batch, device: torch.device) -> int:
    whisper = typing.cast(WhisperConfig, model.get_base_model().config)
    d_model = whisper.d_model
    n_clips, n_mels, n_frames = batch.log_mel.shape
    n_positions, n_tokens = n_clips * n_frames // 2, batch.labels.numel()
    wide = (
        3 if multiplies_in_bfloat16(config, device) else 4
    )  # bytes per value; the residual stream stays in float32
    # A layer keeps its two normalised inputs, queries, keys, values, their mix, and the residual stream
    # before and after: 8 times d_model. Its feed-forward part keeps its product before and after the
    # activation.
    encoder_layer = n_positions * (8 * d_model + 2 * whisper.encoder_ffn_dim) * wide
    # A decoder layer has a second attention, whose keys and values have the encoder's positions.
    decoder_layer = (
        n_tokens * (12 * d_model + 2 * whisper.decoder_ffn_dim) + n_positions * 2 * d_model
    ) * wide
    n_encoder = _differentiated_layers(config, whisper)
    if config.gradient_checkpointing:  # all layers' inputs, and the inside of one layer at a time
        kept = (n_encoder * n_positions + whisper.decoder_layers * n_tokens) * d_model * wide
        layers = kept + max(encoder_layer, decoder_layer)
    else:
        layers = n_encoder * encoder_layer + whisper.decoder_layers * decoder_layer
    if not n_encoder:
        layers = max(layers, encoder_layer)  # freed before the decoder starts
    convolutions = n_clips * n_frames * (n_mels + 3 * d_model) * 4
    n_rows = min(int((batch.labels != IGNORED).sum()), rows_at_once(device))
    logits = 3 * n_rows * whisper.vocab_size * 4  # logits, their logarithms, their gradient
    return layers + convolutions + logits


def _differentiated_layers(config: TrainConfig, whisper: WhisperConfig) -> int:
    """Return how many encoder layers a gradient passes through: those from the first adapted one on."""
    (encoder,) = (block for block in config.blocks if block.name == "encoder")
    if not encoder.is_trained:
        return 0
    return int(whisper.encoder_layers - (encoder.layers[0] if encoder.layers else 0))
