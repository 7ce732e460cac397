"""Load an engine from what is named: the runtime, the base model, the adapter, and how they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from serve.engine import Engine, EngineName, Quantization
from serve.errors import ConfigError
from serve.model.artifact import Artifact

Runtime = Literal["ctranslate2", "transformers"]


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is loaded from, and how."""

    base_dir: Path
    artifact: Artifact | None = None
    """Holds the served adapter; None for the base model alone."""
    engine: Runtime = "ctranslate2"
    quantization: Quantization = "int8"
    n_threads: int = 1
    cache_dir: Path | None = None
    preload: bool = True
    """False lets an engine that stores adapters apart from their base wait for the first one."""
    dynamic: bool = False
    """Whether windows may be shorter than 30 s."""


LoadEngine = Callable[[EngineSpec], Engine]
"""`load_engine`, or what loads it in a process of its own."""


def runtime_of(engine: EngineName, quantization: Quantization) -> Runtime:
    """Return the runtime that `auto` stands for.

    Raises:
        ConfigError: The runtime does not support the quantization.
    """
    if engine == "ctranslate2" and quantization == "int4":
        raise ConfigError(["quantization int4 needs the engine transformers"])
    if engine == "auto":
        return "transformers" if quantization == "int4" else "ctranslate2"
    return engine


def import_runtime(runtime: Runtime) -> None:
    """Import a runtime, which takes up to seconds, so that loading need not."""
    if runtime == "ctranslate2":
        from serve.engine.ctranslate2.instruction_set import choose_instruction_set

        choose_instruction_set()
    import_module(f"serve.engine.{runtime}.engine")


def load_engine(spec: EngineSpec) -> Engine:
    """Load an engine in this process.

    Raises:
        StartupError: The model cannot be found, converted or loaded.
    """
    if spec.engine == "ctranslate2":
        import_runtime(spec.engine)
        from serve.engine.ctranslate2.engine import CTranslate2Engine

        return CTranslate2Engine.load(
            spec.base_dir,
            spec.artifact,
            quantization=spec.quantization,
            n_threads=spec.n_threads,
            cache_dir=spec.cache_dir,
            preload=spec.preload,
        )
    from serve.engine.transformers.engine import TransformersEngine

    return TransformersEngine.load(
        spec.base_dir,
        spec.artifact.adapter_dir if spec.artifact else None,
        quantization=spec.quantization,
        n_threads=spec.n_threads,
        dynamic=spec.dynamic,
        may_be_silent=spec.artifact is None or spec.artifact.may_be_silent,
    )
