"""Measure how far training has moved the encoder from the base model's, on recordings without transcripts.

An encoder that learns from machines alone forgets how people sound. Held near its base on recordings of
people, it can learn only what leaves these as they were (learning without forgetting, Li, Hoiem 2016, with
features in place of outputs).
"""

from __future__ import annotations

import typing

import torch
from peft import PeftModel
from transformers import WhisperForConditionalGeneration


def encoder_drift(
    model: PeftModel, log_mel: torch.Tensor, device: torch.device, *, mixed: bool = False
) -> torch.Tensor:
    """Return the squared change of the encoder's output as a share of its square: 0 for a fresh adapter.

    Args:
        model: whose adapter is switched off for the base's output.
        log_mel: (batch, n_mels, n_frames).
        device: of the model.
        mixed: multiply in bfloat16, as `batch_loss` does.
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
