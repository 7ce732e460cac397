"""The service's settings: a file, environment variables and flags -> one frozen `Settings`.

Every field is a key of the file (`--config FILE` or `SHROTA_CONFIG`), the variable `SHROTA_<FIELD>` and the
flag `--<field>`. Flags override variables, which override the file. SageMaker's own variables
(`SAGEMAKER_BIND_TO_PORT` and others) set the defaults of the fields that they correspond to. Knows no model.
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
"""Name of the flag and the variable for the settings file."""

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
"""Field -> the platform's variable for it, which `SHROTA_<FIELD>` overrides."""

MAX_PLATFORM_BODY_BYTES = 1 << 30
"""Body size that the platform may send where it states no limit."""


def _default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of the service."""

    model_dir: Path = Path(environment.SAGEMAKER_BASE_PATH) / "model"
    """Directory of an artifact, a peft adapter, a checkpoint or a CTranslate2 model."""
    base_model: str | None = None
    """Name or directory of the base model; overrides the one that the adapter names. Served alone where
    model_dir holds nothing."""
    language: str | None = None
    """Language code of a model without a manifest, for requests that name none; None detects it."""
    encoder_context: Literal["fixed", "dynamic"] = "fixed"
    """Windows of an adapter without a manifest: fixed is 30 s; dynamic is the length of the speech, for
    adapters trained on such windows."""
    cache_dir: Path | None = None
    """Where base models and converted models are cached; None is ~/.cache/shrota. Models in
    /usr/local/share/shrota, which come with an image, take precedence."""
    offline: bool = False
    """Never use the network."""
    engine: EngineName = "auto"
    """Runtime of the model; auto takes ctranslate2, or transformers for int4."""
    quantization: Quantization = "int8"
    """Storage of the model's linear layers; none is fp32 on a CPU and fp16 on a GPU."""
    n_threads: int = field(default_factory=_default_threads)
    """CPU threads of the engine; all cores by default."""
    host: str = "0.0.0.0"
    """Address to listen on."""
    port: int = int(environment.DEFAULT_HTTP_PORT)
    """Port to listen on; 0 takes a free one."""
    max_requests: int = 16
    """Requests admitted at a time; further ones get status 429."""
    short_places: int | None = None
    """Places of these kept for requests with bodies of at most 1 MiB; None keeps a quarter, and none in a
    batch transform."""
    max_waiting_audio_s: float = 57_600.0
    """Sound of all admitted requests that is not yet transcribed; a further recording that exceeds it gets
    status 429."""
    max_wait_s: float | None = None
    """Longest time that a further recording should wait for the engine; where more is predicted, it gets
    status 429 at once. None lets all that have a place wait for their turn."""
    max_connections: int = 512
    """Connections open at a time; a further one replaces the longest idle one, or gets status 503."""
    max_connections_per_address: int | None = None
    """The same for each address; None sets no limit, since all clients behind a proxy have one address."""
    head_timeout_s: float = 10.0
    """Time in which a request's head must arrive, or the settings of a live stream."""
    write_timeout_s: float = 30.0
    """Longest time in which a client may read nothing of a response that waits for it."""
    max_arriving_bytes: int = 512 * 2**20
    """Memory for all bodies that are arriving; a quarter is kept for those of at most 1 MiB."""
    api_keys: Path | None = None
    """File of API keys, read again when it changes; each line is NAME use|admin SHA256. Requests then need a
    key as a bearer token or as X-API-Key, and /adapters, /models and /metrics an admin's. None by default."""
    max_batch_windows: int | None = None
    """Most windows decoded as one batch; by default 8 on a CPU and 32 on a GPU."""
    max_batch_s: float | None = None
    """Most seconds of windows decoded as one batch; by default 32 on a CPU and 480 on a GPU."""
    batch: bool = False
    """Optimise for a batch transform: throughput counts and latency does not, so batches are filled however
    long they take."""
    batch_target_s: float = 1.5
    """Longest predicted time of a batch of several windows; a new request waits for about one batch."""
    request_timeout_s: float = 3_600.0
    """Time limit of a request, from the arrival of its body, its waiting included."""
    max_body_bytes: int = 100 * 2**20
    """Largest body accepted."""
    body_timeout_s: float = 120.0
    """Time in which a whole body must arrive."""
    body_idle_timeout_s: float = 20.0
    """Longest pause within a body."""
    cors_origins: str = ""
    """Comma-separated origins whose pages may read responses in a browser, such as https://example.org; * is
    all. None by default."""
    docs_path: str = "/docs"
    """Path of a page that describes all routes; openapi.json below it is the same for programs. Empty turns
    both off."""
    page: bool = True
    """Answer browsers at / with a page to transcribe with; programs get JSON there. A multi-model service has
    no page."""
    traces: bool = False
    """Send spans of requests to a collector of OpenTelemetry, which OTEL_EXPORTER_OTLP_ENDPOINT names; needs
    the packages of shrota[otel]."""
    max_audio_s: float = 14_400.0
    """Longest recording accepted."""
    adapter_roots: str = ""
    """Colon-separated directories that adapters and models may be loaded from; by default model_dir's parent
    and /opt/ml."""
    adapter_memory_mib: float | None = None
    """Memory for the weights of added adapters and of models that requests load; the least recently used
    adapters are evicted. None takes what the machine or its container has left."""
    max_adapters: int = 256
    """Most adapters registered at a time."""
    multi_model: bool = False
    """Start without a model, and load models by POST /models."""
    model_memory_mib: float | None = None
    """Memory for all models of a multi-model service; None takes what the machine or its container has
    left."""
    user_code: bool | None = None
    """Run code/ of the artifact, which gets all rights of the service. None does so on SageMaker only, as its
    containers do: where one of its variables is set, or model_dir lies in /opt/ml."""
    user_program: str = environment.DEFAULT_MODULE_NAME
    """File of code/ that defines model_fn, input_fn, predict_fn, output_fn or transform_fn."""
    stateful_sessions: bool = False
    """Allow recordings to belong to sessions."""
    session_lifetime_s: float = 1_200.0
    """Lifetime of a session from its start."""
    max_sessions: int = 1_000
    """Most sessions open at a time."""
    live_max_s: float = 1_800.0
    """Longest live stream, by the clock and by its sound; SageMaker closes streams after half an hour."""
    live_idle_timeout_s: float = 60.0
    """Longest pause in a live stream's frames."""
    n_audio_workers: int = 2
    """Recordings whose audio is decoded at a time, in turns of a few seconds of sound."""
    engine_timeout_s: float = 300.0
    """A batch that takes longer means that the engine hangs: its process is replaced, and /ping returns 503
    until it is."""
    engine_process: bool = True
    """Run the engine in a process of its own, which is replaced when it ends, hangs, or exceeds
    engine_memory_mib. False runs it in the service's own process."""
    engine_memory_mib: float | None = None
    """Most resident memory of the engine's process. None sets no limit."""
    drain_s: float = 20.0
    """Time after SIGTERM in which running requests may finish before they are broken off."""
    default_accept: str = content_types.JSON
    """Response format for requests without an Accept header."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged."""

    @property
    def runs_user_code(self) -> bool:
        """Whether code of the artifact is run."""
        if self.user_code is not None:
            return self.user_code
        return self.model_dir.absolute().is_relative_to(environment.SAGEMAKER_BASE_PATH)

    @property
    def n_short_places(self) -> int:
        """Places kept for short requests."""
        usual = 0 if self.batch else self.max_requests // 4
        return usual if self.short_places is None else min(self.short_places, self.max_requests - 1)

    @property
    def loading_roots(self) -> tuple[Path, ...]:
        """Directories that adapters and models may be loaded from."""
        if self.adapter_roots:
            return tuple(Path(each) for each in self.adapter_roots.split(os.pathsep) if each)
        # Resolve first, so that a link to an artifact stands for the artifact's own parent.
        model_dir = self.model_dir.resolve()
        beside = model_dir.parent if len(model_dir.parts) > 2 else model_dir  # never the root directory
        return (beside, Path(environment.SAGEMAKER_BASE_PATH))

    def __post_init__(self) -> None:
        """Refuse invalid values.

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
            # SageMaker kills the process 30 s after SIGTERM; connections and engine need time to close.
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
            flags: Text by field name; `config` names the settings file.
            fallback: Values to use if neither file, environment nor flags name a model.

        Raises:
            ConfigError: Lists every invalid value, from any source.
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
    """Return a warning for each variable with the service's prefix that is not a setting."""
    keys = [*keys_of(Settings), CONFIG]
    return unknown_variables(environ, keys, passed_over=[TRAINING_PREFIX])


def _platform_layer(environ: Mapping[str, str]) -> Layer:
    """Return the values of SageMaker's own variables."""
    given = {
        name: Given(_translated(name, environ[variable].strip()), variable)
        for name, variable in SAGEMAKER_VARIABLES.items()
        if environ.get(variable, "").strip()
    }
    if given:
        given["user_code"] = Given("true", "SAGEMAKER_*")
    return given


def _translated(name: str, value: str) -> str:
    """Convert the value of a SageMaker variable to the field's unit."""
    if name == "model_dir":
        return str(Path(value) / "model")
    if name in ("max_requests", "max_body_bytes") and value.isdecimal():
        # These announce expected load, and must not lower the limits: a client that is gone may still hold
        # its place.
        coming = int(value)
        if name == "max_body_bytes":
            coming = coming << 20 or MAX_PLATFORM_BODY_BYTES
        usual: int = getattr(Settings, name)
        return str(max(usual, coming))
    return value
