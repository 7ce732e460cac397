"""Attach an adapter to a base model, and check that each of its tensors finds its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from transformers import WhisperForConditionalGeneration

from serve.errors import ArtifactError, BaseModelError
from serve.model.adapter_tensors import stored_names
from serve.model.artifact import ADAPTER_WEIGHTS


def load_base(base_dir: Path, **arguments: Any) -> WhisperForConditionalGeneration:
    """Load a checkpoint's model; every tensor must come from the checkpoint.

    Args:
        arguments: Further arguments for `from_pretrained`.

    Raises:
        BaseModelError: The checkpoint cannot be loaded, or its tensors are not those of the model.
    """
    try:
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(
            base_dir, local_files_only=True, use_safetensors=True, output_loading_info=True, **arguments
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BaseModelError(f"{base_dir}: cannot be loaded as a Whisper checkpoint: {error}") from error
    model, found = loaded
    if missing := sorted(set(found["missing_keys"]) - {"proj_out.weight"}):  # tied to the embedding
        raise BaseModelError(
            f"{base_dir}: the weights lack '{missing[0]}' (and in all {len(missing)} tensors that config.json"
            " names)"
        )
    if strange := sorted(found["unexpected_keys"]):
        raise BaseModelError(f"{base_dir}: config.json names no layer for the tensor '{strange[0]}'")
    assert isinstance(model, WhisperForConditionalGeneration)
    return model


def attach_adapter(
    model: WhisperForConditionalGeneration | PeftModel, adapter_dir: Path, name: str = "default"
) -> PeftModel:
    """Attach an adapter to a model, in place.

    Args:
        adapter_dir: A peft adapter that `serve.model.adapter_tensors.check_adapter` has accepted.
        name: The adapter's name in peft.

    Raises:
        ArtifactError: The adapter does not fit; the model is left unchanged.
    """
    tensors = read_tensors(adapter_dir / ADAPTER_WEIGHTS)
    adapted = model if isinstance(model, PeftModel) else None
    try:
        config = LoraConfig.from_pretrained(str(adapter_dir))
        config.inference_mode = True
        if adapted is None:
            adapted = PeftModel(model, config, name)
        else:
            adapted.add_adapter(name, config)
        placed: Any = set_peft_model_state_dict(adapted, tensors, name)
        strays = list(placed.unexpected_keys)
        lacking = [key for key in placed.missing_keys if f".{name}" in key and is_of_adapter(key)]
        if strays or lacking:
            raise ValueError(f"'{(strays + lacking)[0]}' has no {'place' if strays else 'tensor'}")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        if adapted is not None and adapted is not model:
            detach_adapters(adapted)
        elif adapted is not None and name in adapted.peft_config:
            adapted.delete_adapter(name)
        raise ArtifactError(adapter_dir, f"cannot be attached to this base model: {error}") from error
    adapted.eval()
    return adapted


def detach_adapters(adapted: PeftModel) -> None:
    """Remove all adapters from a model, in place; the base model is restored."""
    for module in list(adapted.modules()):
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([])  # else peft leaves the active adapter's layer in the base model
    adapted.unload()


def read_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's file by their names in peft.

    Raises:
        ArtifactError: The file is missing or no complete safetensors file, or two tensors share a name.
    """
    stored = stored_names(weights)
    with safe_open(weights, framework="pt") as tensors:
        return {name: tensors.get_tensor(own) for name, own in stored.items()}


def is_of_adapter(key: str) -> bool:
    """Tell whether a parameter belongs to an adapter, by its name in the model."""
    return ".lora_" in key or ".modules_to_save." in key
