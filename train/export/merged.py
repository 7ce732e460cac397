"""Merge an artifact into its base model, for engines without support for adapters.

    artifact ─► base in fp32 + adapter ─► transformers checkpoint (fp16)
                                      └─► CTranslate2 directory, weights quantised after the merge
                                      └─► the same with few tokens, for the service

The service's own code merges and converts: see `serve.engine.ctranslate2.merging`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from serve.engine.ctranslate2.merging import (
    COPIED_FILES,
    RECORD,
    Storage,
    adapter_hashes,
    carried_model,
    convert,
    merge,
    record,
    write_record,
)
from serve.model.artifact import Artifact, load_artifact
from serve.model.base_model import base_fingerprint, resolve_base_model
from serve.model.junk import is_junk
from train.config import ExportFormat
from train.errors import ExportError
from train.export.directories import replace_directory

_CHECKPOINT_FILES = (
    *(*COPIED_FILES, "tokenizer_config.json"),
    *("vocab.json", "merges.txt", "normalizer.json", "special_tokens_map.json", "added_tokens.json"),
)


def export_merged(artifact_dir: Path, kind: ExportFormat, output_dir: Path | None = None) -> Path:
    """Write a merged model and return its directory; an older one is replaced only by a complete one.

    If the manifest names scripts, a second CTranslate2 model with only the tokens of these scripts is written
    into the artifact; the service loads it at its start.

    Args:
        kind: See `ExportFormat`.
        output_dir: Directory for other programs; None writes `merged-KIND` into the artifact.

    Raises:
        ArtifactError, BaseModelError: The artifact or its base model cannot be read.
        ExportError: The merged weights do not fit fp16, or cannot be written.
    """
    artifact = load_artifact(artifact_dir)
    base_dir = find_base(artifact)
    target = output_dir or artifact.path / f"merged-{kind}"
    _write(artifact, base_dir, kind, target)
    scripts = artifact.manifest.few_token_scripts
    if output_dir is None and kind != "transformers" and scripts is not None:
        few_tokens = carried_model(artifact.path, _storage(kind), scripts)
        _write(artifact, base_dir, kind, few_tokens, scripts)
    return target


def _write(
    artifact: Artifact, base_dir: Path, kind: ExportFormat, target: Path, scripts: Sequence[str] | None = None
) -> None:
    """Write one merged model, with its record. A link stays, and what it leads to is replaced."""
    target = target.resolve()
    if target == artifact.path.resolve():
        raise ExportError(f"{target} is the artifact itself: name another --output-dir")
    if (
        target.is_dir()
        and any(not is_junk(each) for each in target.iterdir())
        and not (target / RECORD).is_file()
    ):
        raise ExportError(f"{target} holds something other than a merged model: name another --output-dir")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".merging-") as scratch:
            building = Path(scratch) / "model"
            if kind == "transformers":
                write_checkpoint(artifact, base_dir, building, dtype="float16")
                made_of: dict[str, Any] = {"format": kind, **adapter_hashes(artifact)}
            else:
                convert(base_dir, artifact, _storage(kind), building, scripts)
                made_of = record(base_dir, artifact, _storage(kind), scripts)
            write_record(building, {**_description(artifact), **made_of})
            replace_directory(building, target)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error}") from error


def _storage(kind: ExportFormat) -> Storage:
    return cast(Storage, kind.removeprefix("ct2-"))


def find_base(artifact: Artifact) -> Path:
    """Return the directory of an artifact's base model.

    Raises:
        BaseModelError: The base model is neither here nor available for download.
        ArtifactError: The model with its name is a different one.
    """
    base_dir = resolve_base_model(artifact.manifest.base_model.name)
    artifact.require_base(base_fingerprint(base_dir))
    return base_dir


def write_checkpoint(
    artifact: Artifact, base_dir: Path, into: Path, *, dtype: Literal["float32", "float16"]
) -> None:
    """Write the merged model as a transformers checkpoint.

    Raises:
        ExportError: The merged weights do not fit fp16.
    """
    import torch

    merged: Any = merge(base_dir, artifact)
    if dtype == "float16":
        merged = merged.half()
        if not all(torch.isfinite(tensor).all() for tensor in merged.parameters()):
            raise ExportError("the merged weights hold values that fp16 cannot: export ct2-int8 instead")
    merged.save_pretrained(into)  # creates the directory
    for name in _CHECKPOINT_FILES:
        if (base_dir / name).is_file():
            shutil.copy(base_dir / name, into / name)


def _description(artifact: Artifact) -> dict[str, Any]:
    """Return what an engine must know of the adapter, since a merged model has no manifest."""
    manifest = artifact.manifest
    return {
        "name": manifest.name,
        "base_model": {"name": manifest.base_model.name, "fingerprint": manifest.base_model.fingerprint},
        "language": manifest.language,
        "task": manifest.task,
        "encoder_context": manifest.encoder_context,
        "window_margin_s": manifest.window_margin_s,
        "max_window_s": manifest.max_window_s,
    }
