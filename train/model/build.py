"""Build the model to train: a frozen base, quantised or not, with LoRA adapters on its linear layers."""

from __future__ import annotations

import os
import shutil
import typing
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from serve.engine.transformers.encoder_context import enable_dynamic_context
from serve.engine.transformers.int8_layers import keep_scales
from serve.engine.transformers.quiet import quiet_libraries
from serve.model.allocator import return_freed_memory
from train.config import TrainConfig
from train.errors import TrainConfigError
from train.examples.collate import IGNORED, Batch
from train.model.adapter import adapter_config, check_layers, check_targets
from train.model.fused_lora import fuse_lora
from train.model.output_loss import output_loss


def build_model(base_dir: Path, config: TrainConfig, device: torch.device) -> PeftModel:
    """Return the base with fresh adapters; only the adapters require gradients.

    `task_type` stays unset: for a sequence-to-sequence task, peft would pass `input_ids`, which Whisper
    lacks.

    Raises:
        TrainConfigError: There is no compiler although layers should be compiled, or the base lacks a layer
            that should be adapted, or has none of a name that should be.
    """
    if config.compile and not _has_compiler():
        raise TrainConfigError(
            ["compile: it needs a C compiler (gcc, clang, or the one that CC names), and none was found"]
        )
    quiet_libraries()
    model = WhisperForConditionalGeneration.from_pretrained(
        base_dir,
        dtype=_base_dtype(config, device),
        quantization_config=_quantization(config),
        device_map={"": device},
    )
    return_freed_memory()
    keep_scales(model)
    check_layers(config, model.config)
    adapter = adapter_config(config)
    check_targets(config, adapter, (name for name, m in model.named_modules() if not any(m.children())))
    model.config.use_cache = False
    model.requires_grad_(False)
    if config.encoder_context == "dynamic":
        enable_dynamic_context(model)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted = get_peft_model(model, adapter)
    fuse_lora(adapted)
    if config.compile:
        for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
            layer.compile(dynamic=True)  # one program for all layers of a kind and all window lengths
    return adapted


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang"))


def multiplies_in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Tell whether a step multiplies in bfloat16: always on a GPU, and as configured on a CPU."""
    if config.precision == "mixed" and device.type == "cpu":
        able = torch.cpu.get_capabilities()  # without these instructions bfloat16 is slower than float32
        return bool(able.get("avx512_bf16") or able.get("bf16"))
    return device.type == "cuda" or config.precision == "bfloat16"


def batch_loss(
    model: PeftModel, batch: Batch, device: torch.device, *, mixed: bool = False
) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of a batch, and the number of tokens it covers.

    `mixed` multiplies float32 weights in bfloat16, as always happens on a GPU and with bfloat16 weights.
    Logits are computed only at labelled positions, a few rows at a time, and only for the batch's candidates
    where it names any.
    """
    whisper = typing.cast(WhisperForConditionalGeneration, model.get_base_model())
    mixed = mixed or device.type == "cuda" or whisper.dtype == torch.bfloat16
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed):
        hidden = whisper.model(
            input_features=batch.log_mel.to(device),
            decoder_input_ids=batch.decoder_input_ids.to(device),
            use_cache=False,
        ).last_hidden_state  # (batch, n_tokens, d_model)
    labels = batch.labels.to(device)
    counted = labels != IGNORED
    output, wanted, log_counts = whisper.proj_out.weight, labels[counted], None
    if batch.candidates is not None:
        tokens, log_counts = batch.candidates.tokens.to(device), batch.candidates.log_counts.to(device)
        output, wanted = output[tokens], torch.searchsorted(tokens, wanted)
    dtype = torch.bfloat16 if mixed else output.dtype
    return output_loss(hidden[counted], output, wanted, dtype, log_counts), int(counted.sum())


def _base_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of unquantised weights; bitsandbytes' GPU kernels need fp16 beside 8 bits."""
    if config.quantization != "none" and device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if config.precision == "bfloat16" else torch.float32


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
