"""Build the model to train: a frozen base in 8, 4 or all bits, with LoRA adapters on named linear layers."""

from __future__ import annotations

import typing
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from serve.artifact import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Artifact
from serve.base_model import base_fingerprint
from serve.engine.encoder_context import enable_dynamic_context
from serve.engine.quiet import quiet_libraries
from train.collate import IGNORED, Batch
from train.config import TrainConfig
from train.errors import TrainConfigError
from train.fused_lora import fuse_lora


def build_model(base_dir: Path, config: TrainConfig, device: torch.device) -> PeftModel:
    """Return the base with fresh adapters; only the adapters require gradients.

    `task_type` stays unset: with a sequence-to-sequence task peft would pass `input_ids`, which Whisper
    lacks.
    """
    quiet_libraries()
    model = WhisperForConditionalGeneration.from_pretrained(
        base_dir,
        dtype=torch.float32 if device.type == "cpu" or config.quantization == "none" else torch.float16,
        quantization_config=_quantization(config),
        device_map={"": device},
    )
    model.config.use_cache = False
    model.requires_grad_(False)
    if config.encoder_context == "dynamic":
        enable_dynamic_context(model)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        use_rslora=config.use_rslora,
    )
    adapted = get_peft_model(model, lora)
    fuse_lora(adapted)
    return adapted


def continue_adapter(model: PeftModel, artifact: Artifact, base_dir: Path) -> None:
    """Load the artifact's adapter into a model that `build_model` made of `base_dir`, to train it further.

    Raises:
        TrainConfigError: base model, rank, scale or layers of the adapter are not those of the model.
    """
    wanted = typing.cast(LoraConfig, model.peft_config["default"])
    found = LoraConfig.from_pretrained(str(artifact.adapter_dir))
    faults = [
        f"{ours} is {getattr(wanted, theirs)}, but {artifact.adapter_dir / ADAPTER_CONFIG} says"
        f" {getattr(found, theirs)}"
        for ours, theirs in (
            ("lora_rank", "r"),
            ("lora_alpha", "lora_alpha"),
            ("use_rslora", "use_rslora"),
        )
        if getattr(wanted, theirs) != getattr(found, theirs)
    ]
    weights = load_file(artifact.adapter_dir / ADAPTER_WEIGHTS)
    if artifact.manifest.base_model.fingerprint != base_fingerprint(base_dir):
        faults.append(f"base_model is not the one that the adapter in {artifact.path} was trained on")
    if not faults and {name: w.shape for name, w in weights.items()} != {
        name: w.shape for name, w in get_peft_model_state_dict(model).items()
    }:
        faults = [f"lora_targets are not those of the adapter in {artifact.path}"]
    if faults:
        raise TrainConfigError(faults)
    set_peft_model_state_dict(model, weights)


def batch_loss(model: PeftModel, batch: Batch, device: torch.device) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of a batch and the number of tokens it covers.

    Logits are computed only where a label stands: over a vocabulary of 51,865, padding would cost as much as
    the decoder's layers.
    """
    whisper = typing.cast(WhisperForConditionalGeneration, model.get_base_model())
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden = whisper.model(
            input_features=batch.log_mel.to(device),
            decoder_input_ids=batch.decoder_input_ids.to(device),
            use_cache=False,
        ).last_hidden_state  # (batch, n_tokens, d_model)
        labels = batch.labels.to(device)
        counted = labels != IGNORED
        logits = whisper.proj_out(hidden[counted])  # (n_labels, vocabulary)
    return F.cross_entropy(logits.float(), labels[counted], reduction="sum"), int(counted.sum())


def _quantization(config: TrainConfig) -> BitsAndBytesConfig | None:
    if config.quantization == "int8":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_8bit=True, llm_int8_skip_modules=["proj_out"]
        )
    if config.quantization == "int4":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32 if not torch.cuda.is_available() else torch.bfloat16,
            llm_int8_skip_modules=["proj_out"],
        )
    return None
