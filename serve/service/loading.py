"""Find, check and load what is to be served: base model, adapter, features, engine -> `Pipeline`.

    pipeline = load_pipeline(model_dir=Path("model_artifacts/whisper-base-mr"), n_threads=2)
    pipeline = load_pipeline(base_model="openai/whisper-base")  # no adapter

Knows no environment variables and no HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serve.audio.features import FeatureExtractor
from serve.engine import SERVED_ADAPTER, Engine, EngineName, Quantization
from serve.engine.ctranslate2.instruction_set import choose_instruction_set
from serve.errors import ArtifactError, ConfigError
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import (
    BASE_CONFIG,
    MANIFEST,
    Artifact,
    find_root,
    load_artifact,
    what_is_there,
)
from serve.model.base_model import base_fingerprint, resolve_base_model
from serve.pipeline import Pipeline, ServingFacts


@dataclass(frozen=True, kw_only=True)
class Served:
    """The base model, and the adapter if any, that will be served."""

    base_dir: Path
    artifact: Artifact | None
    """None to serve the base model alone."""


def find_served(
    model_dir: Path | None, base_model: str | None, *, cache_dir: Path | None = None, offline: bool = False
) -> Served:
    """Find the base model and the adapter that a model directory names, and check that they fit.

    Args:
        model_dir: An artifact or a base model's checkpoint; None if `base_model` is named.
        base_model: Name or directory of the base model; overrides the artifact's.

    Raises:
        ArtifactError: There is nothing to serve, or the adapter does not fit the base model.
        BaseModelError: The base model cannot be found or fetched.
    """
    artifact = None
    if model_dir is not None:
        if model_dir.is_file():
            raise ArtifactError(model_dir, "is a file: unpack it, and name its directory with --model-dir")
        model_dir = find_root(model_dir)
    if model_dir is not None and (model_dir / MANIFEST).is_file():
        artifact = load_artifact(model_dir)
    elif model_dir is not None and base_model is None:
        if not (model_dir / BASE_CONFIG).is_file():
            raise ArtifactError(
                model_dir,
                f"holds neither {MANIFEST} nor a base model; name one with --model-dir"
                f"{what_is_there(model_dir)}",
            )
        base_model = str(model_dir)
    if base_model is None:
        assert artifact is not None and model_dir is not None
        inside = model_dir / "base"  # an artifact may carry its base model, for use without a network
        base_model = str(inside) if inside.is_dir() else artifact.manifest.base_model.name
    base_dir = resolve_base_model(base_model, cache_dir=cache_dir, offline=offline)
    if artifact is not None:
        artifact.require_base(base_fingerprint(base_dir))
        check_adapter(artifact.adapter_dir, base_dir)
    return Served(base_dir=base_dir, artifact=artifact)


def serving_facts(
    artifact: Artifact | None, *, name: str | None = None, key: str = SERVED_ADAPTER
) -> ServingFacts:
    """Return what the pipeline needs to know about an artifact, or about a base model alone.

    Args:
        artifact: None for the base model alone.
        name: Name of the adapter in requests; the manifest's by default.
        key: Key of the adapter in the engine.
    """
    if artifact is None:
        return ServingFacts()
    manifest = artifact.manifest
    return ServingFacts(
        adapter_name=name or manifest.name,
        adapter_key=key,
        language=manifest.language,
        task=manifest.task,
        dynamic=manifest.encoder_context == "dynamic",
        margin_s=manifest.window_margin_s,
        max_window_s=manifest.max_window_s,
        timestamps=manifest.timestamps,
    )


def load_pipeline(
    model_dir: Path | None = None,
    base_model: str | None = None,
    *,
    engine: EngineName = "auto",
    quantization: Quantization = "int8",
    n_threads: int = 1,
    cache_dir: Path | None = None,
    offline: bool = False,
) -> Pipeline:
    """Load an artifact, or a base model alone, ready to transcribe.

    Args:
        engine: Runtime; `auto` takes the faster one that supports the quantization.

    Raises:
        ArtifactError, BaseModelError, ConversionError: The model cannot be served.
        ConfigError: The engine does not support the quantization.
    """
    served = find_served(model_dir, base_model, cache_dir=cache_dir, offline=offline)
    return load_served(
        served, engine=engine, quantization=quantization, n_threads=n_threads, cache_dir=cache_dir
    )


def load_served(
    served: Served,
    *,
    engine: EngineName = "auto",
    quantization: Quantization = "int8",
    n_threads: int = 1,
    cache_dir: Path | None = None,
    preload: bool = True,
) -> Pipeline:
    """Load what `find_served` found; see `load_pipeline`.

    `preload=False` lets an engine that stores adapters apart from their base wait for the first one.
    """
    if engine == "auto":
        engine = "transformers" if quantization == "int4" else "ctranslate2"
    if engine == "ctranslate2" and quantization == "int4":
        raise ConfigError(["quantization int4 needs the engine transformers"])
    facts = serving_facts(served.artifact)
    loaded: Engine

    # Imported here: a runtime takes seconds to import, and finding artifacts does not need it.
    if engine == "ctranslate2":
        choose_instruction_set()
        from serve.engine.ctranslate2.engine import CTranslate2Engine

        loaded = CTranslate2Engine.load(
            served.base_dir,
            served.artifact,
            quantization=quantization,
            n_threads=n_threads,
            cache_dir=cache_dir,
            preload=preload,
        )
    else:
        from serve.engine.transformers.engine import TransformersEngine

        loaded = TransformersEngine.load(
            served.base_dir,
            served.artifact.adapter_dir if served.artifact else None,
            quantization=quantization,
            n_threads=n_threads,
            dynamic=facts.dynamic,
        )
    return Pipeline(loaded, FeatureExtractor(served.base_dir), facts, base_dir=served.base_dir)
