"""Write a merged model in every peer's format: CTranslate2, transformers, openai-whisper, whisper.cpp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file

from bench.serving.ggml import write_ggml
from bench.serving.setup import Setup
from serve.model.artifact import load_artifact, write_manifest
from train.export.merged import export_merged

CT2 = "ct2-int8"
TRANSFORMERS = "transformers"
OPENAI = "openai.pt"
GGML = "ggml-q8_0.bin"
FIXED_ARTIFACT = "artifact-fixed"
"""Name of a copy of the artifact whose manifest says `fixed`: windows of 30 s, like any Whisper's."""

_OPENAI_NAMES = (  # in this order: longer names first
    ("model.", ""),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    (".layers.", ".blocks."),
    ("self_attn_layer_norm", "attn_ln"),
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("final_layer_norm", "mlp_ln"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
    ("self_attn", "attn"),
    ("encoder_attn", "cross_attn"),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
)
_OPENAI_DIMS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


def prepare_weights(setup: Setup) -> dict[str, str]:
    """Write all formats below `setup.weights`; return the failed ones and why, whose peers are left out."""
    setup.weights.mkdir(parents=True)
    checkpoint = setup.weights / TRANSFORMERS
    steps: dict[str, Callable[[], object]] = {
        CT2: lambda: export_merged(setup.artifact_dir, "ct2-int8", setup.weights / CT2),
        TRANSFORMERS: lambda: export_merged(setup.artifact_dir, "transformers", checkpoint),
        OPENAI: lambda: torch.save(openai_checkpoint(checkpoint), setup.weights / OPENAI),
        GGML: lambda: write_ggml(
            torch.load(setup.weights / OPENAI, weights_only=True), checkpoint, setup.weights / GGML
        ),
        FIXED_ARTIFACT: lambda: copy_artifact_fixed(setup.artifact_dir, setup.weights / FIXED_ARTIFACT),
    }
    faults = {}
    for name, write in steps.items():
        try:
            write()
        except Exception as error:  # whatever a converter raises costs its peer only
            faults[name] = f"{type(error).__name__}: {error}"
    return faults


def openai_checkpoint(checkpoint: Path) -> dict[str, object]:
    """Return what `whisper.load_model` reads: dimensions and the weights under OpenAI's names."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "model.safetensors")
    return {
        "dims": {name: config[key] for name, key in _OPENAI_DIMS.items()},
        "model_state_dict": {
            openai_name(name): tensor for name, tensor in weights.items() if name != "proj_out.weight"
        },
    }


def openai_name(name: str) -> str:
    """Return OpenAI's name of a tensor that transformers calls `name`."""
    for ours, theirs in _OPENAI_NAMES:
        name = name.replace(ours, theirs)
    return name


def copy_artifact_fixed(artifact_dir: Path, into: Path) -> None:
    """Copy an artifact so that it is served with windows of 30 s."""
    shutil.copytree(artifact_dir, into, ignore=shutil.ignore_patterns("merged-*"))
    manifest = load_artifact(artifact_dir).manifest
    write_manifest(into, msgspec.structs.replace(manifest, encoder_context="fixed", window_margin_s=0.0))
