"""Every error that shrota raises on purpose. Knows no HTTP; `serve/http/errors.py` maps these to statuses.

```
ShrotaError
├── ServiceError                 a request that ends without a transcript
│   ├── RequestError             the caller can fix it
│   │   ├── UnsupportedOption    the option is unknown, or its value invalid
│   │   ├── UnsupportedMediaType the body's format is not supported
│   │   ├── NotAcceptable        no response format that the client accepts
│   │   ├── PayloadTooLarge      the body is over the limit
│   │   ├── UnknownSession       the session was never started, or has ended
│   │   ├── UnknownAdapter       no adapter has that name; likewise UnknownModel
│   │   ├── AdapterExists        an adapter has that name; likewise ModelExists
│   │   ├── UnknownPath          there is nothing that may be loaded
│   │   ├── BadAdapter           files are damaged, or do not fit the base model
│   │   ├── NotRemovable         the adapter is part of the engine
│   │   ├── HookRefusal          a user's own code refuses the request
│   │   ├── ForeignOrigin        a web page of another origin
│   │   ├── WrongKey             no key that is known here, or none for this route
│   │   └── AudioError           not usable speech
│   │       ├── UndecodableAudio
│   │       ├── EmptyAudio
│   │       └── AudioTooLong
│   ├── Overloaded               retry later
│   │   └── TooManySessions
│   ├── RequestTimeout           the request's deadline has passed
│   ├── NotReady                 loading or draining
│   ├── TooManyAdapters          remove one first
│   ├── NoMemory                 a model or adapter does not fit into memory
│   ├── HookError                a user's own code failed
│   └── EngineError              the engine failed
│       └── EngineLost           its process ended
├── AwsError                     AWS refuses a request, or cannot be asked
├── StorageError                 recordings or results lie where nothing answers
├── ClientError                  the client could not have a recording transcribed
└── StartupError                 the process cannot start: exit 1 and one sentence
    ├── ConfigError              settings or flags are invalid
    ├── BaseModelError           the base model cannot be found, fetched or verified
    ├── ArtifactError            an artifact directory cannot be served
    └── ConversionError          a model cannot be converted, or the result not stored
```
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_RESUMABLE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class ShrotaError(Exception):
    """Root of all errors raised on purpose."""


class ServiceError(ShrotaError):
    """A request ended without a transcript. `code` is stable; `str(error)` is for people."""

    code = "service_error"


class RequestError(ServiceError):
    """The caller can fix the request."""

    code = "bad_request"


class UnsupportedOption(RequestError):
    """The option is unknown, or its value invalid."""

    code = "unsupported_option"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"option '{name}': {reason}")
        self.name = name
        self.reason = reason


class UnsupportedMediaType(RequestError):
    """The body's format is not supported."""

    code = "unsupported_media_type"


class NotAcceptable(RequestError):
    """The service supports none of the formats that the client accepts."""

    code = "not_acceptable"


class PayloadTooLarge(RequestError):
    """The body exceeds the size limit."""

    code = "payload_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than the limit of {limit_bytes / 2**20:.0f} MiB")


class UnknownSession(RequestError):
    """The session is not open."""

    code = "unknown_session"

    def __init__(self) -> None:
        super().__init__("no such session: it has expired, was closed, or was never started")


class TakenOver(RequestError):
    """Another connection came back to the session."""

    code = "taken_over"

    def __init__(self) -> None:
        super().__init__("another connection goes on with this session")


class UnknownAdapter(RequestError):
    """No adapter is registered under that name."""

    code = "unknown_adapter"

    def __init__(self, name: str) -> None:
        super().__init__(f"no adapter is named '{name[:60]}'")


class AdapterExists(RequestError):
    """An adapter is registered under that name."""

    code = "adapter_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"an adapter named '{name[:60]}' already exists; delete it first")


class UnknownModel(RequestError):
    """No model is loaded under that name."""

    code = "unknown_model"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no model is named '{name[:60]}'" if name else "this service has several models: name one"
        )


class ModelExists(RequestError):
    """A model is loaded under that name."""

    code = "model_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"a model named '{name[:60]}' already exists; delete it first")


class UnknownPath(RequestError):
    """The path names nothing that may be loaded."""

    code = "unknown_path"


class BadAdapter(RequestError):
    """The files of an adapter or a model are damaged, or do not fit the base model."""

    code = "bad_adapter"


class NotRemovable(RequestError):
    """The adapter is part of the engine that the service was started with."""

    code = "not_removable"


class HookRefusal(RequestError):
    """A hook of the artifact refuses the request; the message is the hook's."""

    code = "refused"

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status if 400 <= status < 600 else 500
        """HTTP status, which the hook may choose."""


class ForeignOrigin(RequestError):
    """A web page of another origin asks for what only this service's own pages may do."""

    code = "foreign_origin"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"pages of '{origin[:80]}' may not do this; SHROTA_CORS_ORIGINS lists the origins that may"
        )


class WrongKey(RequestError):
    """The request has no API key, or one that is not known or not enough."""

    code = "wrong_key"


class AudioError(RequestError):
    """The body is not usable speech."""

    code = "unusable_audio"


class UndecodableAudio(AudioError):
    """No decoder could read the body as audio."""

    code = "undecodable_audio"


class EmptyAudio(AudioError):
    """The body is empty, or decodes to no samples."""

    code = "empty_audio"


class AudioTooLong(AudioError):
    """The recording's duration or decoded size exceeds a limit."""

    code = "audio_too_long"

    def __init__(self, duration_s: float, limit_s: float) -> None:
        super().__init__(f"audio lasts at least {duration_s:.1f} s; the limit is {limit_s:.0f} s")


class Overloaded(ServiceError):
    """Too much work is waiting; retry later."""

    code = "overloaded"

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(f"too many requests are waiting; retry in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class TooManySessions(Overloaded):
    """The maximum number of sessions is open."""

    code = "too_many_sessions"

    def __init__(self, limit: int, next_expires_s: float) -> None:
        super().__init__(min(60, max(1, math.ceil(next_expires_s))))
        self.args = (f"{limit} sessions are open, and no more may be; retry in {self.retry_after_s} s",)


class RequestTimeout(ServiceError):
    """The request's deadline has passed."""

    code = "request_timeout"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request took longer than the limit of {limit_s:g} s")


class NotReady(ServiceError):
    """The model is loading, or the service is draining."""

    code = "not_ready"

    def __init__(self, reason: str, retry_after_s: int = 2) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class TooManyAdapters(ServiceError):
    """No further adapter may be registered."""

    code = "too_many_adapters"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} adapters are registered, and no more may be; remove one first")


class NoMemory(ServiceError):
    """A model or adapter does not fit into memory beside what must stay loaded."""

    code = "no_memory"

    def __init__(self, n_bytes: int, limit_bytes: int | None, taken_bytes: int) -> None:
        rest = (
            "more than this machine has left"
            if limit_bytes is None
            else f"of a limit of {limit_bytes / 2**20:.0f} MiB {taken_bytes / 2**20:.0f} MiB are taken"
        )
        super().__init__(f"it takes {n_bytes / 2**20:.0f} MiB of memory; {rest}")


class HookError(ServiceError):
    """A hook of the artifact failed, by its author's fault."""

    code = "hook_failed"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} of the artifact's own code failed; the log has the reason")


class EngineError(ServiceError):
    """The engine failed on a valid request, by the service's fault."""

    code = "engine_error"


class EngineLost(EngineError):
    """The engine's process ended before it answered; another is started."""

    code = "engine_lost"

    def __init__(self) -> None:
        super().__init__("the engine ended while it worked on this recording; send it once more")


class AwsError(ShrotaError):
    """AWS refuses a request, or cannot be reached."""


class StorageError(ShrotaError):
    """A storage of recordings or results does not answer, refuses, or is of an unknown kind."""


class ClientError(ShrotaError):
    """The client could not have a recording transcribed; the message is the service's."""


class StartupError(ShrotaError):
    """The process cannot start. The message is one sentence that says what to change."""


class ConfigError(StartupError):
    """Settings are invalid; all faults are reported together."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class BaseModelError(StartupError):
    """The base model cannot be found or fetched, or is damaged."""


class ArtifactError(StartupError):
    """An artifact directory cannot be served; the message names the file and the field."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class ConversionError(StartupError):
    """A model cannot be converted for its runtime, or the result cannot be stored."""


def let_go(error: BaseException | None) -> None:
    """Clear the frames that an error passed through: they may hold the recording, and a cycle holds them.

    Coroutines are left alone: one that caught the error goes on, and clearing would end it.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_flags & _RESUMABLE:
                with suppress(RuntimeError):  # it is still running
                    frame.clear()
        error = error.__cause__ or error.__context__
