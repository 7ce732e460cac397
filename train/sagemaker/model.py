"""Prepare a finished run for SageMaker: the artifact into `model/`, bulky inputs out of `output/data/`.

The platform packs both directories. The same image serves `model/` as it is, so the base model is copied too,
unless the image holds it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from serve.errors import ArtifactError, BaseModelError
from serve.model.artifact import load_artifact
from serve.model.base_model import resolve_base_model
from train.errors import ExportError
from train.sagemaker.config import ContainerConfig
from train.sagemaker.job import TrainingJob

ARTIFACT = "artifact"
BASE = "base"


def image_holds(base_model: str, job: TrainingJob) -> bool:
    """Tell whether the image holds the base model, so that an endpoint needs no network for it."""
    try:
        return not resolve_base_model(base_model, offline=True).is_relative_to(job.base_dir)
    except BaseModelError:
        return False


def lay_out_model(job: TrainingJob, config: ContainerConfig, *, held_by_image: bool) -> None:
    """Copy the run's artifact, and the base model if needed, into the job's model directory.

    Raises:
        ExportError: The artifact is incomplete, or cannot be copied.
    """
    artifact = job.run_dir / ARTIFACT
    include_base = config.include_base if config.include_base is not None else not held_by_image
    try:
        load_artifact(artifact)
        shutil.copytree(artifact, job.model_dir, dirs_exist_ok=True)  # a mount, which cannot be replaced
        if include_base:
            base_dir = resolve_base_model(config.train.base_model)
            shutil.copytree(base_dir, job.model_dir / BASE, dirs_exist_ok=True)
        load_artifact(job.model_dir)
    except (OSError, ArtifactError, BaseModelError) as error:
        raise ExportError(f"{job.model_dir} could not be filled: {error}") from error


def tidy_outputs(run_dir: Path) -> None:
    """Delete what need not be uploaded: prepared recordings, and the second copy of the artifact."""
    for directory in (*(path for path in (run_dir / "data").glob("*") if path.is_dir()), run_dir / ARTIFACT):
        shutil.rmtree(directory, ignore_errors=True)
