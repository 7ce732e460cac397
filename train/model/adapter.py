"""Describe an adapter (layers, rank and alpha of encoder and decoder), and continue an earlier one.

config.blocks ─► peft's LoraConfig ─► adapter_config.json, which any program with peft reads
an artifact   ─► the weights to continue from, or the reasons why they do not fit
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers import WhisperConfig

from serve.engine.transformers.adapter import read_tensors
from serve.errors import ArtifactError
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Artifact
from serve.model.base_model import base_fingerprint
from train.config import BLOCKS, Block, TrainConfig
from train.errors import TrainConfigError

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""All linear layers of Whisper, except the output layer, which is tied to the embeddings."""


def adapter_config(config: TrainConfig) -> LoraConfig:
    """Return peft's description of the adapter.

    If both blocks are adapted alike, it lists linear layers by name. Otherwise a pattern selects layers in
    each block, and peft's `rank_pattern` and `alpha_pattern` hold another rank or alpha of the second block.
    """
    trained = [block for block in config.blocks if block.is_trained]
    last = trained[-1]
    common: dict[str, Any] = {
        "lora_alpha": last.alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": _target_modules(trained),
    }
    if config.lora_method == "adalora":
        # The loop sets the schedule once it knows the number of steps; peft requires one now.
        return AdaLoraConfig(init_r=last.rank, target_r=max(1, last.rank // 2), total_step=1, **common)
    others = [block for block in trained if (block.rank, block.alpha) != (last.rank, last.alpha)]
    return LoraConfig(
        r=last.rank,
        rank_pattern={_modules_of(block): block.rank for block in others},
        alpha_pattern={_modules_of(block): block.alpha for block in others},
        use_rslora=config.lora_method == "rslora",
        use_dora=config.lora_method == "dora",
        **common,
    )


def check_layers(config: TrainConfig, whisper: WhisperConfig) -> None:
    """Refuse layers that the base model does not have.

    Raises:
        TrainConfigError: Lists the layers that the base model has.
    """
    n_layers = {"encoder": whisper.encoder_layers, "decoder": whisper.decoder_layers}
    faults = [
        f"{block.name}.layers names {block.layers[-1]}; the {block.name} of {config.base_model}"
        f" has the layers 0 to {n_layers[block.name] - 1}"
        for block in config.blocks
        if block.layers and block.layers[-1] >= n_layers[block.name]
    ]
    if faults:
        raise TrainConfigError(faults)


def check_targets(config: TrainConfig, adapter: LoraConfig, modules: Iterable[str]) -> None:
    """Refuse targets that name no layer which would be adapted, where a misspelt one would go unnoticed.

    A name in `lora_targets` need only be found in one of the blocks that take it.

    Args:
        config: The run's configuration.
        adapter: What `adapter_config` made of it.
        modules: Full names of the base model's modules that hold no others.

    Raises:
        TrainConfigError: Lists the targets that are not found.
    """
    adapted = [f".{name}" for name in modules if check_target_module_exists(adapter, name)]
    takers: dict[str, list[Block]] = {}
    for block in (block for block in config.blocks if block.is_trained):
        own = getattr(config, block.name).targets is not None
        takers.setdefault(f"{block.name}.targets" if own else "lora_targets", []).append(block)
    faults = []
    for key, blocks in takers.items():
        names = [block.name for block in blocks]
        found = [name for name in adapted if block_of(name) in names]
        faults += [
            f"{key} names {target}, which no adapted layer of the {' or '.join(names)} has: it has"
            f" {', '.join(LINEAR_LAYERS)}, and one attention's alone as self_attn.q_proj"
            for target in _linear_layers(blocks[0])
            if not any(name.endswith(f".{target}") for name in found)
        ]
    if faults:
        raise TrainConfigError(faults)


def lora_method(adapter: LoraConfig) -> str:
    """Return the configuration's name for an adapter's method."""
    return "dora" if adapter.use_dora else "rslora" if adapter.use_rslora else "lora"


def block_of(name: str) -> str:
    """Return the block of a module or parameter of Whisper, from its full name."""
    return "encoder" if "model.encoder." in name else "decoder"


def continue_adapter(model: PeftModel, artifact: Artifact, base_dir: Path, config: TrainConfig) -> None:
    """Load an artifact's adapter into a model that `build_model` made of `base_dir`, to train it further.

    Blocks that `continue_blocks` leaves out keep their fresh adapter, if any.

    Raises:
        TrainConfigError: Base model, layers, ranks or scales of the adapter differ from the model's.
        ArtifactError: The adapter's tensors are not those that its own configuration names.
    """
    fingerprint = base_fingerprint(base_dir)
    if artifact.manifest.base_model.fingerprint == fingerprint:
        check_adapter(artifact.adapter_dir, base_dir)
    wanted = typing.cast(LoraConfig, model.peft_config["default"])
    found = LoraConfig.from_pretrained(str(artifact.adapter_dir))
    where = artifact.adapter_dir / ADAPTER_CONFIG
    weights = read_tensors(artifact.adapter_dir / ADAPTER_WEIGHTS)
    fresh = get_peft_model_state_dict(model)
    faults = [
        f"{where} has {key}, which is not trained further"
        for key in ("modules_to_save", "lora_bias")
        if getattr(found, key)
    ]
    try:
        artifact.require_base(fingerprint)
    except ArtifactError as error:
        faults.append(str(error))
    if (ours := lora_method(wanted)) != (theirs := lora_method(found)):
        faults.append(f"lora_method is {ours}, but {where} says {theirs}")
    for block in config.blocks:
        if block.name in config.continue_blocks:
            faults += _differences(block, _of_block(fresh, block), _of_block(weights, block), found, artifact)
    if faults:
        raise TrainConfigError(faults)
    taken = {name: w for name, w in weights.items() if block_of(name) in config.continue_blocks}
    set_peft_model_state_dict(model, {**fresh, **taken})


def _differences(
    block: Block,
    ours: Mapping[str, torch.Tensor],
    theirs: Mapping[str, torch.Tensor],
    found: LoraConfig,
    artifact: Artifact,
) -> list[str]:
    """Return the reasons why the adapter's weights of a block cannot be trained further in this run."""
    (other,) = set(BLOCKS) - {block.name}
    where = artifact.adapter_dir / ADAPTER_CONFIG
    if not theirs and ours:
        return [
            f"the adapter in {artifact.path} leaves the {block.name} as it is, which this run trains:"
            f" continue_blocks {other} starts it afresh"
        ]
    if theirs and not ours:
        return [
            f"{block.name}.rank is 0, but the adapter in {artifact.path} changes the {block.name}:"
            f" continue_blocks {other} takes its {other} alone"
        ]
    faults = []
    for key, wanted, patterns, usual in (
        ("rank", block.rank, found.rank_pattern or {}, found.r),
        ("alpha", block.alpha, found.alpha_pattern or {}, found.lora_alpha),
    ):
        values = {patterns.get(get_pattern_key(list(patterns), module), usual) for module in _modules(theirs)}
        if values - {wanted}:
            said = ", ".join(map(str, sorted(values)))
            faults.append(f"lora_{key} is {wanted}, but {where} says {said} ({block.name})")
    if not faults and {name: w.shape for name, w in theirs.items()} != {n: w.shape for n, w in ours.items()}:
        faults = [f"lora_targets are not those of the adapter in {artifact.path} ({block.name})"]
    return faults


def _of_block(weights: Mapping[str, torch.Tensor], block: Block) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if block_of(name) == block.name}


def _modules(weights: Mapping[str, torch.Tensor]) -> set[str]:
    """Return the names of the adapted modules, in the form that peft's patterns match."""
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in weights}


def _target_modules(trained: list[Block]) -> list[str] | str:
    alike = len({block.targets for block in trained}) == 1 and all(block.layers is None for block in trained)
    if alike and len(trained) == len(BLOCKS):
        return list(_linear_layers(trained[0]))
    return "|".join(_modules_of(block) for block in trained)


def _modules_of(block: Block) -> str:
    """Return a regular expression for the names of a block's adapted modules, starting at `model.`."""
    layers = r"\d+" if block.layers is None else f"({'|'.join(map(str, block.layers))})"
    names = "|".join(re.escape(name) for name in _linear_layers(block))
    return rf"model\.{block.name}\.layers\.{layers}\.(.*\.)?({names})"


def _linear_layers(block: Block) -> tuple[str, ...]:
    return LINEAR_LAYERS if block.targets == ("all-linear",) else block.targets
