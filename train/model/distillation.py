"""Measure how far training has moved the encoder from the base model's, on recordings without transcripts.

An encoder trained on synthetic voices alone forgets how people sound. Kept close to the base on recordings of
people, it learns only what leaves these unchanged (learning without forgetting, Li and Hoiem 2016, on
features instead of outputs).
"""

from __future__ import annotations

import typing

import torch
from peft import PeftModel
from transformers import WhisperForConditionalGeneration


def encoder_drift(
    model: PeftModel, log_mel: torch.Tensor, device: torch.device, *, mixed: bool = False
) -> torch.Tensor:
    """Return the squared change of the encoder output relative to its square; 0 for a fresh adapter.

    Args:
        model: Its adapter is disabled to compute the base's output.
        log_mel: (batch, n_mels, n_frames).
        mixed: Multiply in bfloat16; see `batch_loss`.
    """
    whisper = typing.cast(WhisperForConditionalGeneration, model.get_base_model())
    log_mel = log_mel.to(device)
    mixed = mixed or device.type == "cuda" or whisper.dtype == torch.bfloat16
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        with torch.no_grad(), model.disable_adapter():
            wanted = whisper.model.encoder(log_mel).last_hidden_state.float()  # (batch, n_positions, d_model)
        found = whisper.model.encoder(log_mel).last_hidden_state.float()
    distance: torch.Tensor = (found - wanted).square().mean() / wanted.square().mean()
    return distance
