"""Find, check and load what is to be served: base model, adapter, features, engine -> `Pipeline`.

    pipeline = load_pipeline(model_dir=Path("model_artifacts/whisper-base-mr"), n_threads=2)
    pipeline = load_pipeline(base_model="openai/whisper-base")  # no adapter

Knows no environment variables and no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serve.audio.features import FeatureExtractor
from serve.config.settings import Settings
from serve.engine import SERVED_ADAPTER, Engine, EngineName, Quantization
from serve.engine.loading import EngineSpec, LoadEngine, load_engine, runtime_of
from serve.engine.scheduling.admission import Admission
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import ArtifactError, ConfigError
from serve.model.adapter_source import is_below
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import (
    ADAPTER_CONFIG,
    MANIFEST,
    Artifact,
    Told,
    find_root,
    load_artifact,
    what_is_there,
)
from serve.model.base_model import base_fingerprint, resolve_base_model
from serve.model.completed import completed_checkpoint, is_converted, lacks_tokenizer
from serve.model.foreign import base_of_peft, kind_of, peft_artifact
from serve.pipeline import Pipeline, ServingFacts


@dataclass(frozen=True, kw_only=True)
class Served:
    """The base model, and the adapter if any, that will be served."""

    base_dir: Path
    artifact: Artifact | None
    """None to serve the base model alone."""
    told: Told = field(default_factory=Told)
    """Facts about a model without a manifest."""


def find_served(
    model_dir: Path | None,
    base_model: str | None,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    told: Told | None = None,
    roots: Iterable[Path] | None = None,
) -> Served:
    """Find the base model and the adapter that a model directory names, and check that they fit.

    Args:
        model_dir: An artifact, a peft adapter, a checkpoint, or a CTranslate2 directory; None if
            `base_model` is named.
        base_model: Name or directory of the base model; overrides the adapter's.
        told: Facts about a model without a manifest.
        roots: Directories that a base model named by the files may lie in, which is then not fetched either;
            None allows any.

    Raises:
        ArtifactError: There is nothing to serve, or the adapter does not fit the base model.
        BaseModelError: The base model cannot be found or fetched.
    """

    def resolve(name: str) -> Path:
        # Whoever may name a directory of models must not make the service fetch one.
        is_of_a_file = roots is not None and name != base_model
        return resolve_base_model(name, cache_dir=cache_dir, offline=offline or is_of_a_file)

    told = told or Told()
    if model_dir is not None:
        if model_dir.is_file():
            raise ArtifactError(model_dir, "is a file: unpack it, and name its directory with --model-dir")
        model_dir = find_root(model_dir)
    kind = None if model_dir is None else kind_of(model_dir)
    if model_dir is None or kind is None:
        if base_model is not None:
            return Served(base_dir=resolve(base_model), artifact=None, told=told)
        raise _nothing_there(model_dir or Path())
    if kind in ("checkpoint", "ctranslate2"):
        like = resolve(base_model) if base_model is not None and lacks_tokenizer(model_dir) else None
        whole = completed_checkpoint(model_dir, like=like, cache_dir=cache_dir)
        return Served(
            base_dir=whole if is_converted(whole) else resolve(str(whole)), artifact=None, told=told
        )
    if kind == "peft":
        if (named := base_model or base_of_peft(model_dir)) is None:
            raise ArtifactError(model_dir / ADAPTER_CONFIG, "names no base model; name it with --base-model")
        if base_model is None:
            _check_base(named, roots, model_dir / ADAPTER_CONFIG)
        base_dir = resolve(named)
        return Served(base_dir=base_dir, artifact=peft_artifact(model_dir, base_dir, told), told=told)
    artifact = load_artifact(model_dir)
    inside = model_dir / "base"  # an artifact may carry its base model, for use without a network
    if base_model is None and not inside.is_dir():
        _check_base(artifact.manifest.base_model.name, roots, model_dir / MANIFEST)
    base_dir = resolve(base_model or (str(inside) if inside.is_dir() else artifact.manifest.base_model.name))
    artifact.require_base(base_fingerprint(base_dir))
    check_adapter(artifact.adapter_dir, base_dir)
    return Served(base_dir=base_dir, artifact=artifact, told=told)


def _nothing_there(model_dir: Path) -> ArtifactError:
    return ArtifactError(
        model_dir,
        f"holds neither {MANIFEST} nor a base model; name one with --model-dir{what_is_there(model_dir)}",
    )


def _check_base(name: str, roots: Iterable[Path] | None, file: Path) -> None:
    """Refuse a base model that a file names by a directory outside of the roots.

    Raises:
        ArtifactError: It lies outside, or nowhere.
    """
    if roots is None:
        return
    directory = Path(name).expanduser()
    is_directory = directory.exists() or name.startswith((".", "/", "~"))
    if is_directory and not is_below(directory.resolve(), roots):
        raise ArtifactError(file, "names a base model outside of the directories that may be loaded from")


def serving_facts(
    artifact: Artifact | None,
    *,
    name: str | None = None,
    key: str = SERVED_ADAPTER,
    told: Told | None = None,
) -> ServingFacts:
    """Return what the pipeline needs to know about an artifact, or about a base model alone.

    Args:
        artifact: None for the base model alone.
        name: Name of the adapter in requests; the manifest's by default.
        key: Key of the adapter in the engine.
        told: Facts about a base model alone.
    """
    if artifact is None:
        return ServingFacts(language=None if told is None else told.language)
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
        known_text=manifest.known_text,
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
    language: str | None = None,
    encoder_context: Literal["fixed", "dynamic"] = "fixed",
    load: LoadEngine = load_engine,
) -> Pipeline:
    """Load an artifact, or a base model alone, ready to transcribe.

    Args:
        engine: Runtime; `auto` takes the faster one that supports the quantization.
        language: Language of a model without a manifest; see `serve.model.artifact.Told`.
        encoder_context: Windows of an adapter without a manifest.
        load: Loads the engine.

    Raises:
        ArtifactError, BaseModelError, ConversionError: The model cannot be served.
        ConfigError: The engine does not support the quantization.
    """
    told = Told(language=language, encoder_context=encoder_context)
    served = find_served(model_dir, base_model, cache_dir=cache_dir, offline=offline, told=told)
    return load_served(
        served, engine=engine, quantization=quantization, n_threads=n_threads, cache_dir=cache_dir, load=load
    )


def load_served(
    served: Served,
    *,
    engine: EngineName = "auto",
    quantization: Quantization = "int8",
    n_threads: int = 1,
    cache_dir: Path | None = None,
    preload: bool = True,
    load: LoadEngine = load_engine,
) -> Pipeline:
    """Load what `find_served` found; see `load_pipeline`, and for `preload` `EngineSpec`."""
    runtime = runtime_of(engine, quantization)
    facts = serving_facts(served.artifact, told=served.told)
    if runtime == "transformers" and is_converted(served.base_dir):
        raise ConfigError(["a model of CTranslate2 needs the engine ctranslate2"])
    spec = EngineSpec(
        base_dir=served.base_dir,
        artifact=served.artifact,
        engine=runtime,
        quantization=quantization,
        n_threads=n_threads,
        cache_dir=cache_dir,
        preload=preload,
        dynamic=facts.dynamic,
    )
    features = FeatureExtractor(served.base_dir)  # first: where it fails, no engine is left behind
    return Pipeline(load(spec), features, facts, base_dir=served.base_dir)


def scheduler_of(engine: Engine, settings: Settings) -> Scheduler:
    """Start a scheduler, which closes the engine when it is closed."""
    limits = BatchLimits(
        max_windows=settings.max_batch_windows,
        max_batch_s=settings.max_batch_s,
        target_s=math.inf if settings.batch else settings.batch_target_s,
    )
    return Scheduler(
        engine,
        admission=Admission(
            max_requests=settings.max_requests,
            n_kept_for_short=settings.n_short_places,
            max_waiting_audio_s=settings.max_waiting_audio_s,
            max_wait_s=math.inf if settings.max_wait_s is None else settings.max_wait_s,
        ),
        request_timeout_s=settings.request_timeout_s,
        limits=limits,
    )
