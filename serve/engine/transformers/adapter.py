"""Put an adapter on a base model, and see that every tensor of its file has come to its place."""

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
    """Return a checkpoint's model, all of whose tensors are the checkpoint's.

    Args:
        base_dir: A transformers Whisper checkpoint.
        arguments: Of `from_pretrained`.

    Raises:
        BaseModelError: It cannot be loaded, or lacks tensors, or holds some that the model has no place for.
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
    """Return the model with an adapter on it, in place.

    Args:
        model: The base, or the base with other adapters.
        adapter_dir: Of a peft adapter, which `serve.model.adapter_tensors.check_adapter` has found good.
        name: Under which peft knows it.

    Raises:
        ArtifactError: It does not fit; nothing of it stays on the model.
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
    """Take all adapters off a model, in place; the base model is what it was."""
    for module in list(adapted.modules()):
        if isinstance(module, ModulesToSaveWrapper):
            module.set_adapter([])  # peft would leave the active adapter's layer in the base model
    adapted.unload()


def read_tensors(weights: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter's file by the names that peft gives them.

    Raises:
        ArtifactError: It is missing, is no whole safetensors file, or calls two tensors alike.
    """
    stored = stored_names(weights)
    with safe_open(weights, framework="pt") as tensors:
        return {name: tensors.get_tensor(own) for name, own in stored.items()}


def is_of_adapter(key: str) -> bool:
    """Tell whether a parameter belongs to an adapter, by its name in the model."""
    return ".lora_" in key or ".modules_to_save." in key
