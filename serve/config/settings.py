"""A file, environment variables and flags -> one frozen `Settings`. Knows no model and no HTTP.

Every field is a key of the file (`--config FILE` or `SHROTA_CONFIG`), the variable `SHROTA_<FIELD>` and the
flag `--<field>`; a flag wins over a variable, a variable over the file. SageMaker's own variables
(`SAGEMAKER_BIND_TO_PORT` and others) set the defaults of the fields they speak of.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sagemaker_inference import content_types, environment, parameters

from serve.config.reader import Given, Layer, keys_of, read_dataclass
from serve.config.sources import (
    TRAINING_PREFIX,
    environment_layer,
    file_layer,
    flag_layer,
    unknown_variables,
    variable_of,
)
from serve.engine import EngineName, Quantization
from serve.engine.languages import language_code
from serve.errors import ConfigError

CONFIG = "config"
"""Flag of the settings file, and of its variable."""

SAGEMAKER_VARIABLES = {
    "model_dir": parameters.BASE_PATH_ENV,
    "multi_model": "SAGEMAKER_MULTI_MODEL",
    "stateful_sessions": "SAGEMAKER_ENABLE_STATEFUL_SESSIONS",
    "session_lifetime_s": "SAGEMAKER_SESSIONS_EXPIRATION",
    "port": parameters.BIND_TO_PORT_ENV,
    "user_program": parameters.USER_PROGRAM_ENV,
    "default_accept": parameters.DEFAULT_INVOCATIONS_ACCEPT_ENV,
    "batch": "SAGEMAKER_BATCH",
    "max_requests": "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",
    "max_body_bytes": parameters.MAX_REQUEST_SIZE,
}
"""Field -> the platform's variable for it; ours wins."""

MAX_PLATFORM_BODY_BYTES = 1 << 30
"""What the platform may send where it sets itself no limit."""


def _default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the service reads from its settings file, environment and command line."""

    model_dir: Path = Path(environment.SAGEMAKER_BASE_PATH) / "model"
    """Directory of the artifact; or peft's of an adapter, a checkpoint, or one of CTranslate2."""
    base_model: str | None = None
    """Name or directory of the base model, in place of the one the adapter names; serves it alone where
    model_dir holds nothing."""
    language: str | None = None
    """Code of the language of a model without a manifest, for requests that name none; None detects it."""
    encoder_context: Literal["fixed", "dynamic"] = "fixed"
    """Windows of an adapter without a manifest: fixed is 30 s; dynamic is the speech's own length, which it
    must have been trained on."""
    cache_dir: Path | None = None
    """Where base models and converted models are kept; None is ~/.cache/shrota. What came with the machine,
    in /usr/local/share/shrota, is taken first."""
    offline: bool = False
    """Never reach for the network."""
    engine: EngineName = "auto"
    """Runtime of the model; auto is ctranslate2, and transformers for int4."""
    quantization: Quantization = "int8"
    """How the model's linear layers are kept; none is fp32 on a CPU and fp16 on a GPU."""
    n_threads: int = field(default_factory=_default_threads)
    """CPU threads of the engine; all cores by default."""
    host: str = "0.0.0.0"
    """Address to listen on."""
    port: int = int(environment.DEFAULT_HTTP_PORT)
    """Port to listen on; 0 takes a free one."""
    max_requests: int = 16
    """Requests worked on at a time; more are answered 429."""
    max_batch_windows: int | None = None
    """Most windows decoded together; 8 on a CPU and 32 on a GPU by default."""
    max_batch_s: float | None = None
    """Most seconds of windows decoded together; 32 on a CPU and 480 on a GPU by default."""
    batch: bool = False
    """The recordings are a batch transform's: nobody waits for the next batch of windows, so those that fit
    into one are decoded together however long that takes."""
    batch_target_s: float = 1.5
    """Windows are decoded together as long as that is expected to take no longer; a newcomer waits for about
    one batch."""
    request_timeout_s: float = 3_600.0
    """A request that takes longer, its body and its waiting included, is broken off."""
    max_body_bytes: int = 100 * 2**20
    """Longest accepted body."""
    body_timeout_s: float = 120.0
    """A body must have arrived whole within this time."""
    body_idle_timeout_s: float = 20.0
    """A body may not pause for longer than this."""
    cors_origins: str = ""
    """Origins whose pages may read answers in a browser, between commas, such as https://example.org; * is
    all of them. None by default."""
    docs_path: str = "/docs"
    """Where the description of all routes is, as a page; openapi.json below it is for machines. Empty
    for nowhere."""
    max_audio_s: float = 14_400.0
    """Longest accepted recording."""
    adapter_roots: str = ""
    """Directories that adapters and models may be loaded from, between colons; by default the one that holds
    model_dir, and /opt/ml."""
    adapter_memory_mib: float | None = None
    """Memory of the weights of adapters that are added, and of what requests load besides; adapters used
    longest ago give way. None sets no limit."""
    multi_model: bool = False
    """Start without a model, and take models by POST /models."""
    model_memory_mib: float | None = None
    """Memory of all models of a multi-model service; None takes what the machine or its container has
    left."""
    user_code: bool = True
    """Whether code/ of the artifact is run, as SageMaker's own containers do: it may do all that we may."""
    user_program: str = environment.DEFAULT_MODULE_NAME
    """File of code/ that holds model_fn, input_fn, predict_fn, output_fn or transform_fn."""
    stateful_sessions: bool = False
    """Whether recordings may belong to sessions."""
    session_lifetime_s: float = 1_200.0
    """A session ends so long after its start."""
    max_sessions: int = 1_000
    """Sessions open at a time."""
    live_max_s: float = 1_800.0
    """Longest live stream, by the clock and by its sound; SageMaker closes them after half an hour."""
    live_idle_timeout_s: float = 60.0
    """A live stream may not pause for longer than this."""
    n_audio_workers: int = 2
    """Recordings decoded to samples at a time, each in turns of a few seconds of sound."""
    engine_timeout_s: float = 300.0
    """After this time at one batch the engine is taken for dead, and /ping says so."""
    drain_s: float = 20.0
    """After SIGTERM, running requests have this time to finish before they are broken off."""
    default_accept: str = content_types.JSON
    """Answer format for requests without an Accept header."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line written."""

    @property
    def loading_roots(self) -> tuple[Path, ...]:
        """Directories that adapters and models may be loaded from."""
        if self.adapter_roots:
            return tuple(Path(each) for each in self.adapter_roots.split(os.pathsep) if each)
        # Resolved first: of a link to an artifact, the directory that holds it is meant.
        model_dir = self.model_dir.resolve()
        beside = model_dir.parent if len(model_dir.parts) > 2 else model_dir  # never all of the machine
        return (beside, Path(environment.SAGEMAKER_BASE_PATH))

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: Lists all of them.
        """
        faults = [
            f"{name} must be a number above 0"
            for name, value in vars(self).items()
            if type(value) in (int, float) and name != "port" and not 0 < value < math.inf
        ]
        if not 0 <= self.port <= 65_535:
            faults.append("port must be between 0 and 65535")
        if self.drain_s > 23:
            # SageMaker kills 30 s after SIGTERM; connections and the engine need some of that to close.
            faults.append("drain_s must be at most 23: the platform kills the process soon after")
        if self.docs_path and not self.docs_path.startswith("/"):
            faults.append("docs_path must begin with a slash, or be empty")
        if self.language is not None and language_code(self.language) != self.language:
            faults.append(f"language must be a code of Whisper's, such as mr, and not '{self.language[:40]}'")
        if self.engine == "ctranslate2" and self.quantization == "int4":
            faults.append("quantization int4 needs the engine transformers")
        if faults:
            raise ConfigError(faults)

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        flags: Mapping[str, Any] | None = None,
        fallback: Layer | None = None,
    ) -> Settings:
        """Read settings.

        Args:
            environ: The environment.
            flags: Text by the names of fields; `config` names the file of settings.
            fallback: What holds where neither file, environment nor flags name a model.

        Raises:
            ConfigError: Lists every value that is wrong, wherever it was given.
        """
        flags, keys = flags or {}, keys_of(cls)
        faults: list[str] = []
        named = flags.get(CONFIG) or environ.get(variable_of(CONFIG), "").strip()
        layer = {
            **_platform_layer(environ),
            **(file_layer(Path(named), faults) if named else {}),
            **environment_layer(environ, keys),
            **flag_layer(flags, own=[CONFIG]),
        }
        if fallback and not {"model_dir", "base_model"} & set(layer):
            layer = {**fallback, **layer}
        settings = read_dataclass(cls, layer, faults)
        if settings is None or faults:
            raise ConfigError(faults)
        return settings


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none."""
    keys = [*keys_of(Settings), CONFIG]
    return unknown_variables(environ, keys, passed_over=[TRAINING_PREFIX])


def _platform_layer(environ: Mapping[str, str]) -> Layer:
    """Return what SageMaker's own variables say of our fields."""
    return {
        name: Given(_translated(name, environ[variable].strip()), variable)
        for name, variable in SAGEMAKER_VARIABLES.items()
        if environ.get(variable, "").strip()
    }


def _translated(name: str, value: str) -> str:
    """Return what a variable of SageMaker means for our field, which may have another unit."""
    if name == "model_dir":
        return str(Path(value) / "model")
    if name in ("max_requests", "max_body_bytes") and value.isdecimal():
        # It says what will come, which is no reason to refuse more: a client that is gone may hold its place.
        coming = int(value)
        if name == "max_body_bytes":
            coming = coming << 20 or MAX_PLATFORM_BODY_BYTES
        usual: int = getattr(Settings, name)
        return str(max(usual, coming))
    return value
