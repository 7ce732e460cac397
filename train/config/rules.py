"""Find contradictions and impossible values in a configuration, and describe each in a sentence."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from serve.engine.languages import LANGUAGE_NAMES, language_code
from train.config.sections import BLOCKS, BlockConfig
from train.data.normalise import PROFILES
from train.data.specs import SourceSpec, parse_spec
from train.errors import DataError

if TYPE_CHECKING:
    from train.config.training import TrainConfig

_LEAST = {
    **dict.fromkeys(("keep_checkpoints", "log_every_steps", "save_every_steps", "accumulate_batches"), 1),
    **dict.fromkeys(("lora_rank", "distill_every_steps", "batch_s"), 1),
    **dict.fromkeys(("eval_every_steps", "max_eval_clips", "max_steps", "valid_clips", "sampled_tokens"), 0),
    **dict.fromkeys(("early_stopping_evals", "seed", "n_threads", "weight_decay", "distill_weight"), 0),
}
_PROBABILITIES = (
    *("join_probability", "no_speech_probability", "timestamp_probability", "prompt_probability"),
    "lora_dropout",
)
_MOST = 65_536
"""Largest rank or alpha: more than the widest layer of any Whisper has inputs."""
_SOURCES = ("train_data", "valid_data", "test_data", "distill_data")


def faults_of(config: TrainConfig) -> list[str]:
    """Return a sentence for every fault."""
    return [
        *(message for holds, message in _rules_of_values(config) if not holds),
        *(message for holds, message in _rules_between_keys(config) if not holds),
        *_block_faults(config),
        *_source_faults(config),
    ]


def _rules_of_values(config: TrainConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the fault if not) for each rule about one key."""
    augment = config.augment
    probabilities = {name: getattr(config, name) for name in _PROBABILITIES} | {
        f"augment.{name}": value for name, value in augment.probabilities.items()
    }
    return [
        (
            config.language in LANGUAGE_NAMES,
            f"language is '{config.language}', not a code of Whisper, such as"
            f" {language_code(config.language) or 'mr or hi'}",
        ),
        (config.profile in PROFILES, f"profile is '{config.profile}'; it is one of {', '.join(PROFILES)}"),
        (0 < config.learning_rate < 1, f"learning_rate is {config.learning_rate}, not between 0 and 1"),
        (1 <= config.max_window_s <= 30, f"max_window_s is {config.max_window_s}, not between 1 and 30"),
        (
            0 <= config.window_margin_s[0] <= config.window_margin_s[1],
            "window_margin_s is a range (low, high)",
        ),
        (augment.snr_db[0] <= augment.snr_db[1], "augment.snr_db is a range (low, high)"),
        (
            0.5 <= augment.speed_range[0] <= augment.speed_range[1] <= 2,
            "augment.speed_range is a range (low, high) between 0.5 and 2",
        ),
        (0 <= config.warmup_fraction < 1, "warmup_fraction must lie between 0 and 1"),
        (config.max_grad_norm > 0, "max_grad_norm must be positive"),
        (config.save_every_s > 0, "save_every_s must be positive"),
        (bool(config.train_data), "train_data is empty: there is nothing to learn from"),
        *(
            (getattr(config, name) >= least, f"{name} is {getattr(config, name)}, below {least}")
            for name, least in _LEAST.items()
        ),
        *(
            (0 <= value <= 1, f"{name} is {value}; a probability must lie between 0 and 1")
            for name, value in probabilities.items()
        ),
    ]


def _rules_between_keys(config: TrainConfig) -> list[tuple[bool, str]]:
    """Return (whether it holds, the fault if not) for each rule about several keys."""
    looks = bool(config.valid_data) and config.eval_every_steps > 0
    return [
        (config.epochs > 0 or config.max_steps > 0, "epochs or max_steps must be positive"),
        (
            config.quantization == "none" or config.precision == "float32",
            f"precision is {config.precision}, which is for quantization none; it is {config.quantization}",
        ),
        (
            config.continue_from is None or config.lora_method != "adalora",
            "lora_method adalora cannot continue_from an adapter, whose ranks are fixed",
        ),
        (
            bool(config.continue_blocks)
            and (config.continue_from is not None or config.continue_blocks == BLOCKS),
            "continue_blocks names one block at least, and only beside continue_from",
        ),
        (
            config.average_with_start == 0.0
            or (0.0 < config.average_with_start < 1.0 and config.continue_from is not None),
            "average_with_start is below 1, and stands only beside continue_from",
        ),
        (
            config.average_with_start == 0.0 or config.continue_blocks == BLOCKS,
            "average_with_start needs both blocks in continue_blocks: a fresh one has no start",
        ),
        (
            not (config.export_best or config.early_stopping_evals) or looks,
            "export_best and early_stopping_evals need valid_data and eval_every_steps",
        ),
        (config.best_by == "loss" or config.valid_clips > 0, "best_by wer needs valid_clips"),
        (
            bool(config.distill_data) == (config.distill_weight > 0),
            "distill_data and distill_weight need each other: recordings, and how much they count",
        ),
        (
            not config.distill_data or config.encoder.rank != 0,
            "distill_data has no effect: encoder.rank 0 leaves the encoder as it is",
        ),
    ]


def _block_faults(config: TrainConfig) -> list[str]:
    """Return faults in the layers to adapt."""
    faults = _target_faults("lora_targets", config.lora_targets)
    sizes = {"lora_rank": config.lora_rank, "lora_alpha": config.lora_alpha}
    for name in BLOCKS:
        sizes |= {f"{name}.{key}": getattr(getattr(config, name), key) or 0 for key in ("rank", "alpha")}
    faults += [f"{key} is more than {_MOST}" for key, size in sizes.items() if size > _MOST]
    for name in BLOCKS:
        own: BlockConfig = getattr(config, name)
        given = [f"{name}.{f.name}" for f in fields(own) if getattr(own, f.name) is not None]
        if own.rank == 0 and len(given) > 1:
            faults.append(f"{name}.rank is 0, which leaves the {name} as it is: {given[-1]} has no meaning")
        if own.rank is not None and own.rank < 0:
            faults.append(f"{name}.rank is {own.rank}; it must be at least 0")
        if own.alpha is not None and own.alpha < 1:
            faults.append(f"{name}.alpha is {own.alpha}; it must be at least 1")
        if own.learning_rate is not None and not 0 < own.learning_rate < 1:
            faults.append(f"{name}.learning_rate is {own.learning_rate}, not between 0 and 1")
        if own.targets is not None:
            faults += _target_faults(f"{name}.targets", own.targets)
        if own.layers is not None and not (own.layers and min(own.layers) >= 0):
            faults.append(f"{name}.layers must list layer numbers, which start at 0")
    if not faults and config.lora_rank >= 1:
        trained = [block for block in config.blocks if block.is_trained]
        if not trained:
            faults.append("encoder.rank and decoder.rank are 0: nothing would be trained")
        if config.lora_method == "adalora" and len({(block.rank, block.alpha) for block in trained}) > 1:
            faults.append("lora_method adalora begins with one rank and one alpha for encoder and decoder")
    return faults


def _target_faults(key: str, targets: tuple[str, ...]) -> list[str]:
    """Return faults in the names of linear layers."""
    faults = []
    if not targets:
        faults.append(f"{key} is empty: nothing would be trained")
    if "proj_out" in targets:
        faults.append(f"{key} names proj_out, which is tied to the embeddings")
    if "all-linear" in targets and len(targets) > 1:
        faults.append(f"{key} names layers beside all-linear")
    return faults


def _source_faults(config: TrainConfig) -> list[str]:
    """Return faults in the names of sources."""
    faults: list[str] = []
    specs: dict[str, list[SourceSpec]] = {}
    for key in _SOURCES:
        for text in getattr(config, key):
            try:
                specs.setdefault(key, []).append(spec := parse_spec(text))
            except DataError as error:
                faults.append(f"{key}: {error}")
                continue
            if key != "train_data" and spec.weight != 1:
                faults.append(f"{key}: '{text}' has a weight, which only sources of train_data can have")
    names = [spec.name for spec in specs.get("test_data", ())]
    if len(set(names)) < len(names):
        faults.append("test_data must differ in their names: scores are listed by them")
    weights = {(spec.name, spec.weight) for spec in specs.get("train_data", ())}
    if len({name for name, _ in weights}) < len(weights):
        faults.append("train_data of one name have different weights: tell them apart with ?label=NAME")
    return faults
