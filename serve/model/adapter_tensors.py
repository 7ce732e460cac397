"""Check an adapter's tensors against its configuration and its base model. Loads no model.

    check_adapter(artifact.adapter_dir, base_dir)        # raises, naming the first tensor that does not fit
    stored_names(weights)                                # name in peft -> name in the file

An adapter is loaded exactly as its two files say, whatever program wrote them. peft alone would ignore
tensors that it cannot place, and leave missing ones random. Training wrappers (torch.compile, DDP, FSDP) and
a doubled or missing peft prefix change names in known ways, which are undone.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from serve.errors import ArtifactError
from serve.model.adapter_config import read_adapter_config
from serve.model.artifact import ADAPTER_CONFIG, ADAPTER_WEIGHTS, tensor_names
from serve.model.base_model import weight_files

PEFT_PREFIX = "base_model.model."

_OUTER = (PEFT_PREFIX, "module.")
"""Prefixes that peft and DDP add, once for each wrapping."""

_INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Name parts that training wrappers insert; no layer has such a name."""

_NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": np.uint16}

_BFLOAT16_EXPONENT = 0x7F80


def check_adapter(adapter_dir: Path, base_dir: Path) -> None:
    """Check that an adapter has exactly the tensors that its configuration names, and fits the base model.

    Raises:
        ArtifactError: Names the file and the tensor.
    """
    config = read_adapter_config(adapter_dir / ADAPTER_CONFIG)
    weights = adapter_dir / ADAPTER_WEIGHTS
    base = shapes_of_base(base_dir)
    stored = stored_names(weights)
    if not stored:
        raise ArtifactError(weights, "holds no tensors of LoRA")
    header = _header(weights)
    expected = config.expected(base)
    for name, own in stored.items():
        bare = name.removeprefix(PEFT_PREFIX)
        if bare not in expected:
            layer = bare.partition(".lora_")[0]
            known = bare in base or f"{layer}.weight" in base
            reason = f"is of a layer that {ADAPTER_CONFIG} does not name" if known else "belongs to no layer"
            raise ArtifactError(weights, f"'{own[:150]}' {reason}{'' if known else ' of the base model'}")
    missing = [name for name in expected if PEFT_PREFIX + name not in stored]
    if missing:
        raise ArtifactError(
            weights,
            f"lacks '{missing[0]}', and in all {len(missing)} of the {len(expected)} tensors that"
            f" {ADAPTER_CONFIG} names",
        )
    for name, own in stored.items():
        shape, wanted = tuple(header[own]["shape"]), expected[name.removeprefix(PEFT_PREFIX)]
        if wanted is not None and shape != wanted:
            raise ArtifactError(
                weights, f"'{own[:150]}' has the shape {shape}, which does not fit: it should be {wanted}"
            )
    _check_values(weights, header)


def stored_names(weights: Path) -> dict[str, str]:
    """Return name in peft -> name in the file, for the tensors of an adapter.

    Raises:
        ArtifactError: The file is missing or incomplete, or two tensors share a name.
    """
    stored: dict[str, str] = {}
    for own in tensor_names(weights):
        name = PEFT_PREFIX + _bare(own)
        if name in stored:
            raise ArtifactError(weights, f"'{stored[name][:150]}' and '{own[:150]}' are the same tensor")
        stored[name] = own
    return stored


def shapes_of_base(base_dir: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a base model's tensors; the output layer has the embedding's shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base_dir):
        with safe_open(file, framework="np") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is not a mapping
                shapes[key] = tuple(weights.get_slice(key).get_shape())
    if (tied := shapes.get("model.decoder.embed_tokens.weight")) is not None:
        shapes.setdefault("proj_out.weight", tied)
    return shapes


def _bare(name: str) -> str:
    """Return a tensor's name without the parts that peft and training wrappers add."""
    bare = ".".join(part for part in name.split(".") if part not in _INNER)
    while (prefix := next((each for each in _OUTER if bare.startswith(each)), None)) is not None:
        bare = bare.removeprefix(prefix)
    return bare


def _header(weights: Path) -> dict[str, dict[str, Any]]:
    """Return dtype, shape and byte offsets of each tensor in a file that `safe_open` could read."""
    with weights.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header: dict[str, dict[str, Any]] = json.loads(file.read(n_bytes))
    for tensor in header.values():
        if "data_offsets" in tensor:
            tensor["data_offsets"] = [8 + n_bytes + place for place in tensor["data_offsets"]]
    return header


def _check_values(weights: Path, header: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse tensors with NaN or infinity, which would spoil every output of the model."""
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name, tensor in header.items():
            if "data_offsets" not in tensor:
                continue
            if (dtype := _NUMBERS.get(tensor["dtype"])) is None:
                raise ArtifactError(
                    weights,
                    f"'{name[:150]}' is kept as {tensor['dtype']}; {', '.join(_NUMBERS)} can be read",
                )
            start, end = tensor["data_offsets"]
            if not _are_finite(np.frombuffer(content[start:end], dtype)):
                raise ArtifactError(weights, f"'{name[:150]}' holds values that are not finite (NaN or inf)")


def _are_finite(values: npt.NDArray[Any]) -> bool:
    if values.dtype == np.uint16:  # bfloat16, which numpy does not support
        return not ((values & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any()
    return bool(np.isfinite(values).all())
