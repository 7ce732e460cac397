from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from bench.serving.weights import openai_checkpoint, openai_name


@pytest.mark.parametrize(
    ("transformers_name", "name"),
    [
        ("model.encoder.conv1.bias", "encoder.conv1.bias"),
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layers.3.self_attn_layer_norm.weight", "encoder.blocks.3.attn_ln.weight"),
        ("model.encoder.layers.3.self_attn.k_proj.weight", "encoder.blocks.3.attn.key.weight"),
        ("model.encoder.layer_norm.bias", "encoder.ln_post.bias"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        ("model.decoder.layers.0.encoder_attn.out_proj.bias", "decoder.blocks.0.cross_attn.out.bias"),
        ("model.decoder.layers.0.encoder_attn_layer_norm.bias", "decoder.blocks.0.cross_attn_ln.bias"),
        ("model.decoder.layers.0.fc2.weight", "decoder.blocks.0.mlp.2.weight"),
        ("model.decoder.layers.0.final_layer_norm.weight", "decoder.blocks.0.mlp_ln.weight"),
        ("model.decoder.layer_norm.weight", "decoder.ln.weight"),
    ],
)
def test_tensors_have_the_names_that_openai_gave_them(transformers_name, name):
    assert openai_name(transformers_name) == name


def test_openai_whisper_computes_the_same_logits_from_the_mapped_weights(tmp_path):
    whisper = pytest.importorskip("whisper.model", reason="the extra bench is not installed")
    config = WhisperConfig(
        vocab_size=120,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=50,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    theirs = WhisperForConditionalGeneration(config).eval()
    weights = {name: tensor.contiguous() for name, tensor in theirs.model.state_dict(prefix="model.").items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")

    checkpoint = openai_checkpoint(tmp_path)
    openai = whisper.Whisper(whisper.ModelDimensions(**checkpoint["dims"])).eval()
    openai.load_state_dict(checkpoint["model_state_dict"])
    log_mel, tokens = torch.randn(1, 80, 100), torch.tensor([[2, 5, 7]])
    with torch.inference_mode():
        expected = theirs(input_features=log_mel, decoder_input_ids=tokens).logits
        torch.testing.assert_close(openai(log_mel, tokens), expected, rtol=1e-4, atol=1e-4)
