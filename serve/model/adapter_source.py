"""Where an adapter may be loaded from, and whether its files can be trusted to fit. Loads no model.

Everything is checked before anything is loaded: the place, the manifest, the base model it was trained on,
the kind of adapter, and the name and shape of every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from serve.errors import ArtifactError, BadAdapter, UnknownPath
from serve.model.artifact import (
    ADAPTER_CONFIG,
    ADAPTER_DIR,
    ADAPTER_WEIGHTS,
    Artifact,
    load_artifact,
)

KINDS = ("LORA", "ADALORA")
MAX_CONFIG_BYTES = 1 << 20

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B)\.weight")


def find_source(source: str, roots: Iterable[Path]) -> Path:
    """Return the directory that `source` names, symlinks resolved.

    Raises:
        UnknownPath: It does not exist, or lies outside of `roots`; the sentence does not say which.
    """
    refusal = UnknownPath("src names no directory below one that adapters may be loaded from")
    if "\0" in source or not source.strip():
        raise refusal
    try:
        path = Path(source.removeprefix("file://")).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal from error
    if not path.is_dir() or not _is_below(path, roots):
        raise refusal
    return path


def read_adapter(path: Path, roots: Iterable[Path], base_dir: Path, fingerprint: str) -> Artifact:
    """Return the checked artifact in a directory.

    Args:
        path: Directory that `find_source` returned.
        roots: Directories that its files must lie in.
        base_dir: Checkpoint of the base model, whose tensors the adapter's must fit.
        fingerprint: `base_fingerprint` of the base model.

    Raises:
        BadAdapter: A file is missing, damaged, elsewhere, or does not fit the base model.
    """
    check_links(path, roots)
    try:
        artifact = load_artifact(path)
        artifact.require_base(fingerprint)
    except ArtifactError as error:
        raise BadAdapter(_relative(error, path)) from error
    _check_config(artifact.adapter_dir / ADAPTER_CONFIG)
    _check_tensors(artifact.adapter_dir / ADAPTER_WEIGHTS, base_dir)
    return artifact


def check_links(path: Path, roots: Iterable[Path]) -> None:
    """Refuse a directory of which anything leads elsewhere, through other directories or not.

    Raises:
        BadAdapter: Names it.
    """
    roots = list(roots)
    directories = [path]
    for directory in directories:  # links add to them
        for link in (file for file in directory.rglob("*") if file.is_symlink()):
            target = link.resolve()
            if not _is_below(target, roots):
                raise BadAdapter(
                    f"{link.relative_to(directory)}: leads out of the directories that may be loaded from"
                )
            if target.is_dir() and target not in directories:
                directories.append(target)


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in roots)


def _relative(error: ArtifactError, path: Path) -> str:
    """Return an error's sentence without the directory, which is nobody's business."""
    return str(error).replace(f"{path}/", "")


def _check_config(path: Path) -> None:
    name = f"{ADAPTER_DIR}/{ADAPTER_CONFIG}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise BadAdapter(f"{name}: is too long")
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise BadAdapter(f"{name}: is not a JSON object") from error
    if config.get("peft_type") not in KINDS:
        raise BadAdapter(f"{name}: peft_type is none of {', '.join(KINDS)}")
    if config.get("megatron_config") is not None:  # peft would import the module that stands beside it
        raise BadAdapter(f"{name}: megatron_config is not supported")


def _check_tensors(path: Path, base_dir: Path) -> None:
    name = f"{ADAPTER_DIR}/{ADAPTER_WEIGHTS}"
    shapes = _shapes_of_base(base_dir)
    try:
        with safe_open(path, framework="np") as weights:
            found = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadAdapter(f"{name}: not a whole safetensors file") from error
    if not any(_TENSOR.fullmatch(key) for key in found):
        raise BadAdapter(f"{name}: holds no tensors of LoRA")
    for key, shape in found.items():
        if (match := _TENSOR.fullmatch(key)) is None:
            continue
        base_shape = shapes.get(f"{match['module']}.weight")
        if base_shape is None:
            raise BadAdapter(f"{name}: '{key[:100]}' belongs to no layer of the base model")
        n_out, n_in = base_shape[0], base_shape[1] if len(base_shape) > 1 else 1
        fits = shape[-1:] == (n_in,) if match["part"] == "A" else shape[:1] == (n_out,)
        if len(shape) == 2 and not fits:
            raise BadAdapter(f"{name}: '{key[:100]}' has the shape {shape}, which does not fit its layer")


def _shapes_of_base(base_dir: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in base_dir.glob("*.safetensors"):
        with safe_open(file, framework="np") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is not a mapping
                shapes[key] = tuple(weights.get_slice(key).get_shape())
    if (tied := shapes.get("model.decoder.embed_tokens.weight")) is not None:
        shapes.setdefault("proj_out.weight", tied)
    return shapes
