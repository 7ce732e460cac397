"""Merge an artifact's adapter into its base model, for engines that know no adapters.

    artifact ─► base in fp32 + adapter ─► transformers checkpoint (fp16)
                                      └─► CTranslate2 directory, weights quantised after the merge

Merging into 8-bit weights would round twice and change what is heard, so it never happens.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from serve.artifact import ADAPTER_WEIGHTS, MANIFEST, Artifact, load_artifact
from serve.base_model import base_fingerprint, resolve_base_model
from serve.errors import ArtifactError
from train.config import ExportFormat
from train.directories import replace_directory
from train.errors import ExportError

RECORD = "merged.json"
"""What a merged model was made of; beside it there is no adapter to ask."""

_COPIED_FILES = ("tokenizer.json", "preprocessor_config.json")
"""Read by faster-whisper; `preprocessor_config.json` says how many mel bands the model takes."""
_CHECKPOINT_FILES = (*_COPIED_FILES, "tokenizer_config.json")
_OPTIONAL_FILES = (
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def export_merged(artifact_dir: Path, kind: ExportFormat, output_dir: Path | None = None) -> Path:
    """Write a merged model and return its directory; an older one is replaced once the new one is whole.

    Args:
        artifact_dir: of the adapter; its base model is resolved as the server does.
        kind: see `ExportFormat`.
        output_dir: where to; `merged-KIND` within the artifact if None.

    Raises:
        ArtifactError, BaseModelError: the artifact or its base model cannot be read.
        ExportError: the merged weights do not fit fp16, or the disk refuses.
    """
    artifact = load_artifact(artifact_dir)
    base_dir = find_base(artifact)
    target = output_dir or artifact_dir / f"merged-{kind}"
    if target.resolve() == artifact_dir.resolve():
        raise ExportError(f"{target} is the artifact itself: name another --output-dir")
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise ExportError(f"{target} holds something else than a merged model: name another --output-dir")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".merging-") as scratch:
            building, checkpoint = Path(scratch) / "model", Path(scratch) / "checkpoint"
            if kind == "transformers":
                write_checkpoint(artifact, base_dir, building, dtype="float16")
            else:
                write_checkpoint(artifact, base_dir, checkpoint, dtype="float32")
                _convert(checkpoint, building, kind.removeprefix("ct2-"))
            (building / RECORD).write_text(_record(artifact, kind), encoding="utf-8")
            replace_directory(building, target)
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error}") from error
    return target


def find_base(artifact: Artifact) -> Path:
    """Return the directory of an artifact's base model.

    Raises:
        BaseModelError: it cannot be had.
        ArtifactError: what is found under its name is another model.
    """
    base_dir = resolve_base_model(artifact.manifest.base_model.name)
    if base_fingerprint(base_dir) != artifact.manifest.base_model.fingerprint:
        raise ArtifactError(
            artifact.path / MANIFEST,
            f"base_model.fingerprint is not that of {base_dir}: the adapter belongs to another base",
        )
    return base_dir


def write_checkpoint(artifact: Artifact, base_dir: Path, into: Path, *, dtype: str) -> None:
    """Merge in fp32 and write a transformers checkpoint.

    Args:
        artifact: holds the adapter.
        base_dir: the base model's checkpoint.
        into: a directory, made here.
        dtype: of the written weights, `float32` or `float16`.
    """
    import torch
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    from serve.engine.quiet import quiet_libraries

    quiet_libraries()
    base = WhisperForConditionalGeneration.from_pretrained(
        base_dir, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    merged = PeftModel.from_pretrained(base, str(artifact.adapter_dir)).merge_and_unload()
    if dtype == "float16":
        merged = merged.half()
        if not all(torch.isfinite(tensor).all() for tensor in merged.parameters()):
            raise ExportError("the merged weights hold values that fp16 cannot: export ct2-int8 instead")
    merged.save_pretrained(into)  # makes the directory
    for name in (*_CHECKPOINT_FILES, *_OPTIONAL_FILES):
        if (base_dir / name).is_file():
            shutil.copy(base_dir / name, into / name)


def _convert(checkpoint: Path, into: Path, quantization: str) -> None:
    """Write a CTranslate2 model with the files that faster-whisper reads beside it."""
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(checkpoint), copy_files=list(_COPIED_FILES)).convert(
            str(into), quantization=quantization
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise ExportError(f"CTranslate2 cannot convert the merged model: {error}") from error
    shutil.copy(checkpoint / "generation_config.json", into)


def _record(artifact: Artifact, kind: ExportFormat) -> str:
    manifest = artifact.manifest
    weights = (artifact.adapter_dir / ADAPTER_WEIGHTS).read_bytes()
    record = {
        "format": kind,
        "name": manifest.name,
        "adapter_sha256": hashlib.sha256(weights).hexdigest(),
        "base_model": {"name": manifest.base_model.name, "fingerprint": manifest.base_model.fingerprint},
        "language": manifest.language,
        "task": manifest.task,
        "encoder_context": manifest.encoder_context,
        "window_margin_s": manifest.window_margin_s,
        "max_window_s": manifest.max_window_s,
    }
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"
