"""What the service and the engine's process say to each other. Knows no process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from serve.engine import BatchSize, DecodingOptions, Hypothesis
from serve.engine.loading import Runtime
from serve.engine.tracing import Step

if TYPE_CHECKING:
    from serve.audio.features import LogMel


@dataclass(frozen=True, kw_only=True)
class Start:
    """The first message to a new process."""

    runtime: Runtime
    """Imported before the engine is asked for."""
    n_threads: int
    """Threads of the engine; memory is arranged for so many."""
    log_level: str = "info"


@dataclass(frozen=True)
class Row:
    """A window. Its encoder output stays in the process."""

    log_mel: LogMel
    options: DecodingOptions
    encoded_id: int
    """Under which the process has kept the encoder output, or will."""


@dataclass(frozen=True)
class Request:
    """A call of a method."""

    id: int
    method: str
    arguments: tuple[Any, ...]
    forget: tuple[int, ...] = ()
    """Ids of encoder outputs that nobody needs any more."""


class Loaded(msgspec.Struct, frozen=True):
    """Facts about a loaded engine, which never change."""

    n_workers: int
    usual_batch: BatchSize
    languages: frozenset[str]
    has_adapter: bool


class Failure(msgspec.Struct, frozen=True):
    """Why a call failed."""

    kind: Literal["startup", "engine"]
    message: str


class Answer(msgspec.Struct, frozen=True):
    """The outcome of a call."""

    id: int
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    """In msgpack; its type depends on the method."""
    failure: Failure | None = None
    steps: tuple[Step, ...] = ()
    """Steps that took time, for tracing."""


DECODES = ("decode", "detect_language")
"""Methods that take windows."""

VALUES: dict[str, Any] = {
    "load": Loaded,
    "beat": None,
    "kind": str,
    "unsupported": tuple[str, str] | None,
    "detect_language": list[dict[str, float]],
    "decode": list[Hypothesis],
    "adapter_bytes": int,
    "base_bytes": int,
    "bytes_to_load": int,
    "load_adapter": None,
    "unload_adapter": None,
    "make_ready": None,
}
"""Method -> the type of its value."""
