"""Whisper's decoder as a step function over a preallocated KV cache. Knows no search.

It calls the modules of the transformers model, so quantised and adapted linear layers work unchanged. It
skips the library's generic cache, mask and output handling, which cost as much as the arithmetic in steps of
one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention


@dataclass
class DecoderState:
    """The KV cache of every layer, for the rows still being decoded."""

    cross: list[tuple[Tensor, Tensor]]
    """Cross-attention keys and values per layer: (n_rows, n_heads, n_positions, head_dim) each."""
    own: list[tuple[Tensor, Tensor]]
    """Self-attention keys and values per layer: (n_rows, n_heads, max_tokens, head_dim) each, `n_tokens`
    filled."""
    n_tokens: int = 0

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row not in `rows` (int64 indices, ascending)."""
        self.cross = [(keys[rows], values[rows]) for keys, values in self.cross]
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]


class CachedDecoder:
    """Decoder and output layer of a Whisper model."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        self._decoder = model.model.decoder
        self._proj_out = model.proj_out
        self._n_heads = int(model.config.decoder_attention_heads)

    def begin(self, encoder_output: Tensor, max_tokens: int) -> DecoderState:
        """Project the encoder output, (n_rows, n_positions, d_model), once, and allocate the cache."""
        n_rows, _, d_model = encoder_output.shape
        cross, own = [], []
        for layer in self._decoder.layers:
            attention = layer.encoder_attn
            cross.append(
                (self._heads(attention.k_proj(encoder_output)), self._heads(attention.v_proj(encoder_output)))
            )
            shape = (n_rows, self._n_heads, max_tokens, d_model // self._n_heads)
            own.append((encoder_output.new_empty(shape), encoder_output.new_empty(shape)))
        return DecoderState(cross=cross, own=own)

    def step(self, tokens: Tensor, state: DecoderState, n_logits: int = 1) -> Tensor:
        """Append tokens to every row.

        Args:
            tokens: (n_rows, n_new) int64. More than one token at once only into an empty state.
            state: Updated in place.
            n_logits: Number of last tokens whose logits are needed; the output layer is a fifth of the model.

        Returns:
            Logits after each of the last `n_logits` tokens, (n_rows, n_logits, n_vocabulary).
        """
        n_before, n_new = state.n_tokens, tokens.shape[1]
        assert n_new == 1 or n_before == 0
        decoder = self._decoder
        x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[n_before : n_before + n_new]
        for layer, cross, own in zip(decoder.layers, state.cross, state.own, strict=True):
            x = x + self._attend_own(layer.self_attn, layer.self_attn_layer_norm(x), own, n_before)
            x = x + self._attend(layer.encoder_attn, layer.encoder_attn_layer_norm(x), *cross)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        state.n_tokens = n_before + n_new
        logits: Tensor = self._proj_out(decoder.layer_norm(x[:, -n_logits:]))
        return logits

    def _attend_own(
        self, attention: WhisperAttention, x: Tensor, own: tuple[Tensor, Tensor], n_before: int
    ) -> Tensor:
        keys, values = own
        n_after = n_before + x.shape[1]
        keys[:, :, n_before:n_after] = self._heads(attention.k_proj(x))
        values[:, :, n_before:n_after] = self._heads(attention.v_proj(x))
        return self._attend(
            attention, x, keys[:, :, :n_after], values[:, :, :n_after], is_causal=n_before == 0
        )

    def _attend(
        self, attention: WhisperAttention, x: Tensor, keys: Tensor, values: Tensor, is_causal: bool = False
    ) -> Tensor:
        query = self._heads(attention.q_proj(x))
        mixed = F.scaled_dot_product_attention(query, keys, values, is_causal=is_causal and x.shape[1] > 1)
        projected: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        """(n_rows, n, d_model) -> (n_rows, n_heads, n, head_dim)."""
        return x.view(x.shape[0], x.shape[1], self._n_heads, -1).transpose(1, 2)


def detection_logits(decoder: CachedDecoder, state: DecoderState, start_token: int) -> Tensor:
    """Return the logits after the start token alone, (n_rows, n_vocabulary); `state` is left empty."""
    n_rows = state.own[0][0].shape[0]
    tokens = torch.full((n_rows, 1), start_token, device=state.own[0][0].device)
    logits = decoder.step(tokens, state)[:, -1]
    state.n_tokens = 0
    return logits
