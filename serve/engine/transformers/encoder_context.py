"""Let Whisper's encoder read windows shorter than 30 s, in training and in serving.

transformers accepts windows of 30 s only. The network itself does not need that: a shorter window uses the
first rows of the position table. An adapter trained on windows of the clip's own length keeps its accuracy on
them (audio-context fine-tuning), and the encoder's work shrinks with the window.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class DynamicContextEncoder(WhisperEncoder):  # type: ignore[no-untyped-call]
    """Whisper's encoder for any even number of frames up to 3,000; the same weights, names and hooks."""

    def forward(
        self, input_features: torch.Tensor, attention_mask: Any = None, **kwargs: Any
    ) -> BaseModelOutput:
        """Return hidden states (batch, n_frames / 2, d_model) for log_mel (batch, n_mels, n_frames)."""
        n_frames, max_frames = input_features.shape[-1], 2 * self.max_source_positions
        if n_frames % 2 or not 0 < n_frames <= max_frames:
            raise ValueError(f"a window has an even number of frames up to {max_frames}, not {n_frames}")
        hidden_states = nn.functional.gelu(self.conv1(input_features))
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).permute(0, 2, 1)
        hidden_states = hidden_states + self.embed_positions.weight[: n_frames // 2]
        hidden_states = nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)
        for layer in self.layers:
            hidden_states = layer(hidden_states, None)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states))


def enable_dynamic_context(model: WhisperForConditionalGeneration) -> None:
    """Let `model.model.encoder` accept log_mel of any even n_frames up to 3,000, in place."""
    model.model.encoder.__class__ = DynamicContextEncoder
