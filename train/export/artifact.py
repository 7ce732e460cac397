"""Write a trained adapter as an artifact that `serve` can load: manifest, fp16 safetensors, nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from serve.engine.transformers.adapter import read_tensors
from serve.errors import ArtifactError
from serve.model.artifact import (
    ADAPTER_CONFIG,
    ADAPTER_DIR,
    ADAPTER_WEIGHTS,
    SCHEMA_VERSION,
    Artifact,
    BaseModel,
    Manifest,
    load_artifact,
    write_manifest,
)
from serve.model.base_model import base_fingerprint
from serve.model.durable_write import put_in_place
from serve.model.scripts import scripts_of
from serve.service.known_sound import text_of_known_sound
from serve.service.loading import load_pipeline
from train.config import TrainConfig
from train.errors import ExportError
from train.export.directories import check_publishable, replace_directory
from train.loop.loop import Outcome

START_DIR = "start"
"""Beside the checkpoints: the adapter that the run continued."""


def export_artifact(
    model: PeftModel,
    base_dir: Path,
    config: TrainConfig,
    outcome: Outcome,
    texts: Iterable[str],
    heard: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `output_dir/artifact` and return its path; an older one is replaced only by a complete one.

    Args:
        texts: All training transcripts; the server keeps the tokens of their scripts.
        heard: Summary of the training clips, by source, kind of voice and language, for people.

    Raises:
        ExportError: The artifact cannot be written, or read back.
    """
    target = config.output_dir / "artifact"
    building = config.output_dir / ".artifact.part"
    try:
        start = _kept_start(config)
        shutil.rmtree(building, ignore_errors=True)
        (building / ADAPTER_DIR).mkdir(parents=True)
        _write_adapter(model, config, start, building / ADAPTER_DIR)
        write_manifest(building, _manifest(base_dir, config, outcome, start, _scripts(start, texts), heard))
        load_artifact(building)
        replace_directory(building, target)
    except (OSError, ArtifactError) as error:
        raise ExportError(f"artifact {target} could not be written: {error}") from error
    return target


def record_evaluation(artifact_dir: Path, scores: dict[str, Any]) -> None:
    """Store the scores, without their utterances, in the artifact's manifest."""
    manifest = load_artifact(artifact_dir).manifest
    summary = {
        test_set: {
            label: {key: value for key, value in result.items() if key != "utterances"}
            for label, result in models.items()
        }
        for test_set, models in scores.items()
    }
    write_manifest(artifact_dir, msgspec.structs.replace(manifest, evaluation=summary))


def note_known_sound(artifact_dir: Path, config: TrainConfig) -> None:
    """Note in the manifest what the adapter writes for a known recording; a service compares it."""
    pipeline = load_pipeline(artifact_dir, quantization=config.quantization)
    try:
        text = text_of_known_sound(pipeline)
    finally:
        pipeline.engine.close()
    manifest = load_artifact(artifact_dir).manifest
    write_manifest(artifact_dir, msgspec.structs.replace(manifest, known_text=text))


def publish_artifact(artifact_dir: Path, target: Path) -> Path:
    """Copy a finished artifact to the place it is served from, and return that.

    A link stays, and what it leads to is replaced.

    Raises:
        ExportError: Something other than an artifact lies there, or it cannot be written.
    """
    check_publishable(target)
    place = target.resolve()
    copy = place.with_name(f".{place.name}.part")
    try:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(artifact_dir, copy)
        replace_directory(copy, place)
    except OSError as error:  # shutil.Error is one
        raise ExportError(f"the artifact {artifact_dir} cannot be published to {target}: {error}") from error
    return target


def keep_start(config: TrainConfig) -> None:
    """Copy the adapter that a run is about to continue, in place of that of an earlier run.

    Until the run ends, another one may be published over it.

    Raises:
        ArtifactError: There is no adapter at `continue_from`.
        ExportError: It cannot be copied.
    """
    kept = config.checkpoints / START_DIR
    try:
        if kept.is_dir():
            shutil.rmtree(kept)
        _kept_start(config)
    except OSError as error:
        raise ExportError(f"the adapter that is continued cannot be copied to {kept}: {error}") from error


def _kept_start(config: TrainConfig) -> Artifact | None:
    """Return the adapter that the run continued, from a copy beside the checkpoints; None without one.

    The copy is made before the first step, or here if it has gone. A run may be published over the adapter
    that it continued; if its command is then given again, `continue_from` names the run's own result.

    Raises:
        ArtifactError: There is no adapter at `continue_from`.
        OSError: It cannot be copied.
    """
    if config.continue_from is None:
        return None
    kept = config.checkpoints / START_DIR
    if not kept.is_dir():
        artifact = load_artifact(config.continue_from)
        part = kept.with_name(f".{START_DIR}.part")
        shutil.rmtree(part, ignore_errors=True)
        (part / ADAPTER_DIR).mkdir(parents=True)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(artifact.adapter_dir / name, part / ADAPTER_DIR / name)
        write_manifest(part, artifact.manifest)
        put_in_place(part, kept)
    return load_artifact(kept)


def _write_adapter(model: PeftModel, config: TrainConfig, start: Artifact | None, into: Path) -> None:
    trained = model.peft_config["default"]
    assert isinstance(trained, LoraConfig)
    lora = dataclasses.replace(trained, base_model_name_or_path=config.base_model, inference_mode=True)
    if not isinstance(lora.target_modules, str):  # the order of a set would vary
        lora.target_modules = sorted(lora.target_modules or ())
    lora.save_pretrained(str(into))
    weights = {
        name: tensor.half().contiguous()
        for name, tensor in _averaged(
            get_peft_model_state_dict(model), start, config.average_with_start
        ).items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise ExportError("the adapter holds values that fp16 cannot: train again with a lower learning_rate")
    save_file(weights, into / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _averaged(
    trained: Mapping[str, torch.Tensor], start: Artifact | None, share: float
) -> dict[str, torch.Tensor]:
    """Return trained weights averaged with those that the run began from, on the CPU.

    Both lie on one path of training, so the mean of the weights is an adapter too, and often a better one for
    speech unlike that of the run (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    weights = {name: tensor.detach().float().cpu() for name, tensor in trained.items()}
    if not share or start is None:
        return weights
    begun = read_tensors(start.adapter_dir / ADAPTER_WEIGHTS)
    return {name: torch.lerp(tensor, begun[name].float(), share) for name, tensor in weights.items()}


def _scripts(start: Artifact | None, texts: Iterable[str]) -> tuple[str, ...] | None:
    """Return the scripts of all training texts, those of an adapter that was continued included."""
    found = scripts_of(texts)
    before = start.manifest.scripts if start is not None else ()
    if not found or before is None:
        return None
    return tuple(sorted({*found, *before}))


def _manifest(
    base_dir: Path,
    config: TrainConfig,
    outcome: Outcome,
    start: Artifact | None,
    scripts: tuple[str, ...] | None,
    heard: Sequence[Mapping[str, Any]],
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        base_model=BaseModel(name=config.base_model, fingerprint=base_fingerprint(base_dir)),
        language=config.language,
        task=config.task,
        encoder_context=config.encoder_context,
        window_margin_s=round(sum(config.window_margin_s) / 2, 2)
        if config.encoder_context == "dynamic"
        else 0.0,
        max_window_s=config.max_window_s,
        timestamps=config.timestamp_probability > 0,
        scripts=scripts,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        training={
            "steps": outcome.step,
            "samples": outcome.samples,
            "skipped_batches": outcome.skipped_batches,
            "wall_clock_s": round(outcome.trained_s),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "torch": str(torch.__version__),
            "blocks": {block.name: dataclasses.asdict(block) for block in config.blocks if block.is_trained},
            "quantization": config.quantization,
            "learning_rate": config.learning_rate,
            "seed": config.seed,
            "heard": [dict(row) for row in heard],
            "continued_from": _lineage(start),
            "average_with_start": config.average_with_start,
        },
    )


def _lineage(start: Artifact | None) -> dict[str, Any] | None:
    """Return the training record and weights hash of the adapter that was continued; None without one."""
    if start is None:
        return None
    weights = (start.adapter_dir / ADAPTER_WEIGHTS).read_bytes()
    return {
        "name": start.manifest.name,
        "created": start.manifest.created,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "training": start.manifest.training,
    }
