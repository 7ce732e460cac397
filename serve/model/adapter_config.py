"""Check `adapter_config.json`: the kind of the adapter, its layers and its ranks. Loads no model.

peft ignores keys that it does not know and layers that it cannot find, with a warning at most. Here every key
is understood, is irrelevant for serving, or is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import regex

from serve.errors import ArtifactError

KIND = "LORA"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1_024
"""Rank of the largest adapter that is loaded: as large as the layers of whisper-medium."""

MATCH_TIMEOUT_S = 0.5
"""Longest time for one match of a pattern from a file, which may be made to take for ever."""

_USED = frozenset(
    (
        *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "init_lora_weights"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("rank_pattern", "alpha_pattern", "modules_to_save", "ensure_weight_tying"),
    )
)
_OF_NO_WEIGHT = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size"),
        *("fan_in_fan_out", "inference_mode", "lora_dropout", "megatron_core", "runtime_config"),
    )
)
"""Keys that only matter for training or for peft itself, or that depend on another key."""

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the base model's weights unchanged."""

_TIED = ("proj_out", "embed_tokens")
"""Layers with shared weights: a change to one would change both."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

_LAYER_NUMBER = re.compile(r".*?\.[^.]*\.(?P<number>\d+)\.")


@dataclass(frozen=True)
class AdapterConfig:
    """A checked `adapter_config.json`."""

    path: Path
    values: Mapping[str, Any]

    def expected(self, base: Shapes) -> dict[str, tuple[int, ...] | None]:
        """Return the names and shapes of exactly the tensors that the adapter must have.

        Args:
            base: Shapes of the base model's tensors, by name.

        Returns:
            Names as in the base model, such as `model.encoder.layers.0.fc1.lora_A.weight`. peft checks
            tensors whose shape is None.

        Raises:
            ArtifactError: The configuration names layers that do not exist, or cannot be adapted.
        """
        layers = {
            name.removesuffix(".weight"): shape for name, shape in base.items() if name.endswith(".weight")
        }
        saved = self._saved_layers(base, layers)
        expected: dict[str, tuple[int, ...] | None] = {}
        try:
            for layer, shape in layers.items():
                if layer not in saved and self._adapts(layer, shape):
                    expected |= self._tensors_of(layer, shape)
        except TimeoutError as error:
            raise ArtifactError(self.path, "a pattern takes too long to match the names of layers") from error
        if not expected:
            raise ArtifactError(self.path, "target_modules names no layer of the base model")
        for name, shape in base.items():
            if name.rpartition(".")[0] in saved:
                expected[name] = shape
        return expected

    def _adapts(self, layer: str, shape: tuple[int, ...]) -> bool:
        """Tell whether a layer is adapted, by the rules of peft's `check_target_module_exists`."""
        targets = self.values["target_modules"]
        excluded = self.values.get("exclude_modules")
        if excluded and _is_named(layer, excluded):
            return False
        if targets == "all-linear":
            return len(shape) == 2 and layer.rpartition(".")[2] != "proj_out" and "embed_" not in layer
        if not _is_named(layer, targets) or not self._is_counted(layer, targets):
            return False
        if layer.rpartition(".")[2] in _TIED or "embed_" in layer or len(shape) not in (2, 3):
            raise ArtifactError(
                self.path,
                f"target_modules names '{layer}', which is not a linear layer or convolution of its own",
            )
        return True

    def _is_counted(self, layer: str, targets: Any) -> bool:
        """Tell whether `layers_to_transform` selects a layer; it applies only to lists of targets."""
        numbers = self.values.get("layers_to_transform")
        if numbers is None or numbers == [] or isinstance(targets, str):
            return True
        patterns = self.values.get("layers_pattern") or []
        found = None
        if not patterns:
            found = _LAYER_NUMBER.match(layer)
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if (found := _matches(rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\.", layer)) is not None:
                break
        return found is not None and int(found["number"]) in (
            [numbers] if isinstance(numbers, int) else numbers
        )

    def _tensors_of(self, layer: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...] | None]:
        rank = self._rank(layer)
        n_out, *others = shape
        found: dict[str, tuple[int, ...] | None] = {
            f"{layer}.lora_A.weight": (rank, *others),
            f"{layer}.lora_B.weight": (n_out, rank, *(1 for _ in others[1:])),
        }
        if self.values.get("use_dora"):
            found[f"{layer}.lora_magnitude_vector"] = (n_out,) if len(shape) == 2 else None
        if self.values.get("lora_bias"):
            found[f"{layer}.lora_B.bias"] = (n_out,)
        return found

    def _rank(self, layer: str) -> int:
        pattern: Mapping[str, int] = self.values.get("rank_pattern") or {}
        for key, rank in pattern.items():
            if _matches(rf"(.*\.)?({key})$", layer):
                return rank
        rank = self.values["r"]
        assert isinstance(rank, int)
        return rank

    def _saved_layers(self, base: Shapes, layers: Shapes) -> set[str]:
        """Return the layers that `modules_to_save` replaces, by the rules of peft's `_set_trainable`."""
        wanted: list[str] = self.values.get("modules_to_save") or []
        owners = {name.rpartition(".")[0] for name in base}
        modules = {owner.rsplit(".", cut)[0] for owner in owners for cut in range(owner.count(".") + 1)}
        saved: set[str] = set()
        for name in wanted:
            matching = {module for module in modules if module.endswith(name)}
            if not matching:
                raise ArtifactError(self.path, f"modules_to_save: the base model has no layer '{name[:100]}'")
            if whole := sorted(matching - set(layers)):
                raise ArtifactError(
                    self.path,
                    f"modules_to_save names '{whole[0]}', which holds layers of its own; only single ones"
                    " can be replaced",
                )
            saved |= matching
        return saved


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read and check `adapter_config.json`.

    Raises:
        ArtifactError: The file is malformed, or describes an adapter that cannot be served.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ArtifactError(path, "is too long")
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(path, "is not a JSON object") from error
    if values.get("peft_type") != KIND:
        found = str(values.get("peft_type"))[:60]
        raise ArtifactError(path, f"peft_type is {found}; only {KIND} can be served")
    for key, value in values.items():
        if key not in _USED and key not in _OF_NO_WEIGHT and value not in (None, False, [], ""):
            # This includes megatron_config, for which peft would import a module that another key names.
            raise ArtifactError(path, f"{key[:60]} is set, which is not supported")
    if fault := _fault_of(values):
        raise ArtifactError(path, fault)
    return AdapterConfig(path, values)


def _fault_of(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the keys that are used; None if nothing is."""
    if values.get("bias", "none") != "none":
        return "bias is not 'none': biases of the base model that were trained are not supported"
    if values.get("init_lora_weights", True) not in _PLAIN_STARTS:
        return (
            "init_lora_weights changes the base model itself; save the adapter as plain LoRA, with peft's"
            " path_initial_model_for_weight_conversion"
        )
    if not _is_rank(values.get("r")):
        return f"r is not a whole number from 1 to {MAX_RANK}"
    alpha = values.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        return "lora_alpha is not a number"
    ranks = values.get("rank_pattern") or {}
    if not isinstance(ranks, dict) or not all(_is_rank(rank) for rank in ranks.values()):
        return f"rank_pattern is not an object of whole numbers from 1 to {MAX_RANK}"
    if not values.get("target_modules"):
        return "target_modules names no layer"
    saved = values.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) and name for name in saved):
        return "modules_to_save is not a list of names"
    if saved and values.get("ensure_weight_tying"):
        return "ensure_weight_tying beside modules_to_save is not supported"
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        if not _are_patterns(values.get(key) or []):
            return f"{key} is neither a pattern nor a list of names"
    return None if _are_patterns(list(ranks)) else "rank_pattern holds no patterns"


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_RANK


def _are_patterns(value: Any) -> bool:
    try:
        for each in [value] if isinstance(value, str) else value:
            re.compile(each)
            regex.compile(each)
    except (re.error, regex.error, TypeError, RecursionError, OverflowError):
        return False
    return True


def _matches(pattern: str, layer: str, *, whole: bool = False) -> regex.Match[str] | None:
    """Match a pattern from a file, as `re` would, but within a time limit and without stopping other threads.

    Raises:
        TimeoutError: The pattern takes too long.
    """
    match = regex.fullmatch if whole else regex.match
    found: regex.Match[str] | None = match(pattern, layer, timeout=MATCH_TIMEOUT_S, concurrent=True)
    return found


def _is_named(layer: str, names: str | list[str]) -> bool:
    if isinstance(names, str):
        return _matches(names, layer, whole=True) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)
