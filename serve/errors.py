"""Every error shrota raises on purpose. Knows no HTTP; `serve/http/errors.py` maps these to statuses.

```
ShrotaError
├── ServiceError                 a request that ends without a transcript
│   ├── RequestError             the caller can fix it
│   │   ├── UnsupportedOption    an option we do not have, or a value it cannot take
│   │   ├── UnsupportedMediaType the body is in a format we do not read
│   │   ├── NotAcceptable        no answer format the client accepts
│   │   ├── PayloadTooLarge      the body is over the limit
│   │   ├── UnknownSession       it was never started, or has ended
│   │   ├── UnknownAdapter       none is registered under that name; likewise UnknownModel
│   │   ├── AdapterExists        one is; likewise ModelExists
│   │   ├── UnknownPath          nothing there that may be loaded
│   │   ├── BadAdapter           files that are damaged, or do not fit the base model
│   │   ├── NotRemovable         it is part of what was started
│   │   ├── HookRefusal          a user's own code refuses the request
│   │   └── AudioError           not usable speech
│   │       ├── UndecodableAudio
│   │       ├── EmptyAudio
│   │       └── AudioTooLong
│   ├── Overloaded               retry later
│   │   └── TooManySessions
│   ├── RequestTimeout           it took longer than any request may
│   ├── NotReady                 loading or draining
│   ├── NoMemory                 what is to be loaded does not fit
│   ├── HookError                a user's own code failed
│   └── EngineError              ours
├── AwsError                     AWS refuses a request, or cannot be asked
├── ClientError                  a recording that the client could not have transcribed
└── StartupError                 the process cannot start: exit 1 and one sentence
    ├── ConfigError              settings or flags that contradict each other
    ├── BaseModelError           the base weights cannot be had or do not verify
    ├── ArtifactError            an artifact directory that cannot be served
    └── ConversionError          a model that the runtime's own format cannot be made or kept of
```
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path


class ShrotaError(Exception):
    """Root of everything raised on purpose."""


class ServiceError(ShrotaError):
    """A request that ends without a transcript. `code` is stable; `str(error)` is for people."""

    code = "service_error"


class RequestError(ServiceError):
    """The caller can fix it."""

    code = "bad_request"


class UnsupportedOption(RequestError):
    """An option we do not have, or a value that an option cannot take."""

    code = "unsupported_option"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"option '{name}': {reason}")
        self.name = name
        self.reason = reason


class UnsupportedMediaType(RequestError):
    """The body is in a format we do not read."""

    code = "unsupported_media_type"


class NotAcceptable(RequestError):
    """None of the formats the client accepts can be produced."""

    code = "not_acceptable"


class PayloadTooLarge(RequestError):
    """The body holds more bytes than the limit."""

    code = "payload_too_large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than the limit of {limit_bytes / 2**20:.0f} MiB")


class UnknownSession(RequestError):
    """The session is not open."""

    code = "unknown_session"

    def __init__(self) -> None:
        super().__init__("there is no such session; it has expired, was closed, or was never started")


class UnknownAdapter(RequestError):
    """No adapter is registered under that name."""

    code = "unknown_adapter"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no adapter '{name[:60]}'")


class AdapterExists(RequestError):
    """An adapter is registered under that name."""

    code = "adapter_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is an adapter '{name[:60]}' already; delete it first")


class UnknownModel(RequestError):
    """No model is loaded under that name."""

    code = "unknown_model"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no model '{name[:60]}'"
            if name
            else "there are several models here; POST to /models/<name>/invoke"
        )


class ModelExists(RequestError):
    """A model is loaded under that name."""

    code = "model_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a model '{name[:60]}' already; delete it first")


class UnknownPath(RequestError):
    """The path names nothing that may be loaded."""

    code = "unknown_path"


class BadAdapter(RequestError):
    """The files of an adapter or a model are damaged, or do not fit the base model."""

    code = "bad_adapter"


class NotRemovable(RequestError):
    """It is part of what the service was started with."""

    code = "not_removable"


class HookRefusal(RequestError):
    """A function of the artifact's own code refuses the request, in its own words."""

    code = "refused"

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status if 400 <= status < 600 else 500
        """HTTP's, which that code may choose."""


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
    """The recording lasts longer than the limit, or decodes to more bytes than the limit."""

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
    """The limit of open sessions is reached."""

    code = "too_many_sessions"

    def __init__(self, limit: int, next_expires_s: float) -> None:
        super().__init__(min(60, max(1, math.ceil(next_expires_s))))
        self.args = (f"{limit} sessions are open, and no more may be; retry in {self.retry_after_s} s",)


class RequestTimeout(ServiceError):
    """The request was not done within the time that any request has."""

    code = "request_timeout"

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request took longer than the limit of {limit_s:g} s")


class NotReady(ServiceError):
    """The model is loading, or the service is draining."""

    code = "not_ready"

    def __init__(self, reason: str, retry_after_s: int = 2) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class NoMemory(ServiceError):
    """What is to be loaded does not fit beside what is loaded and must stay."""

    code = "no_memory"

    def __init__(self, n_bytes: int, limit_bytes: int | None, taken_bytes: int) -> None:
        rest = (
            "more than this machine has left"
            if limit_bytes is None
            else f"of a limit of {limit_bytes / 2**20:.0f} MiB {taken_bytes / 2**20:.0f} MiB are taken"
        )
        super().__init__(f"it takes {n_bytes / 2**20:.0f} MiB of memory; {rest}")


class HookError(ServiceError):
    """A function of the artifact's own code failed. The fault is its author's."""

    code = "hook_failed"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} of the artifact's own code failed; the log has the reason")


class EngineError(ServiceError):
    """The engine failed on a valid request. The fault is ours."""

    code = "engine_error"


class AwsError(ShrotaError):
    """AWS refuses a request, or cannot be asked."""


class ClientError(ShrotaError):
    """A recording that the client could not have transcribed; the message holds the service's own words."""


class StartupError(ShrotaError):
    """The process cannot start. The message is one sentence that names what to change."""


class ConfigError(StartupError):
    """Settings that are wrong; all faults are reported together."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


class BaseModelError(StartupError):
    """The base weights cannot be had, or are not what they claim to be."""


class ArtifactError(StartupError):
    """An artifact directory that cannot be served; names the file and the field."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class ConversionError(StartupError):
    """A model cannot be converted to the format that its runtime reads, or the result cannot be kept."""
