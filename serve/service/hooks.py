"""Run a user's functions around the pipeline: `code/inference.py`, as in SageMaker's containers.

    model_fn(model_dir)                                   -> the model; by default a `ServedModel`
    input_fn(body, content_type)                          -> a recording; see `read_recording`
    predict_fn(data, model)                               -> anything; by default the transcript as a dict
    output_fn(prediction, accept)                         -> the response body, or (body, content type)
    transform_fn(model, body, content_type, accept)       -> the same; replaces the last three

Each may take a `HookContext` as one more argument; missing ones have defaults. Hooks run in threads,
concurrently, inside this process: the artifact's author is trusted. The message of a `ValueError` goes to the
client with status 400, that of a `sagemaker_inference` error with its own status; any other failure is
reported without details. Knows nothing more of HTTP.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from sagemaker_inference import content_types
from sagemaker_inference.errors import BaseInferenceToolkitError, UnsupportedFormatError

from serve.audio.base64_text import decode_base64
from serve.audio.samples import Samples
from serve.errors import (
    ArtifactError,
    HookError,
    HookRefusal,
    RequestError,
    ServiceError,
    UnsupportedMediaType,
)
from serve.model.artifact import find_root

CODE_DIR = "code"

ARGUMENTS = {
    "model_fn": ("model_dir",),
    "input_fn": ("body", "content_type"),
    "predict_fn": ("data", "model"),
    "output_fn": ("prediction", "accept"),
    "transform_fn": ("model", "body", "content_type", "accept"),
}
"""Hook -> its arguments."""

FULL_SCALE = 32_768.0

Transcribe = Callable[[bytes | Samples, Mapping[str, Any]], dict[str, Any]]
"""Transcribes a recording with options by name; returns a dict like OpenAI's `verbose_json`."""

_transcribe: ContextVar[Transcribe] = ContextVar("transcribe")
"""Transcribes as part of the request that the running thread answers."""

_log = structlog.get_logger(__name__)


class ServedModel:
    """The model that hooks get where `model_fn` is missing. Call it to transcribe a recording."""

    def __call__(self, data: object, **options: Any) -> dict[str, Any]:
        """Transcribe a recording as part of the current request.

        Args:
            data: A recording; see `read_recording`.
            options: Override the options of the request and of `data`.

        Raises:
            ServiceError: The transcription failed. Uncaught, it gives the client its usual response.
        """
        transcribe = _transcribe.get(None)
        if transcribe is None:
            raise RuntimeError("the served model transcribes while a request is being answered only")
        audio, named = read_recording(data)
        return transcribe(audio, {**named, **options})


@dataclass(frozen=True, kw_only=True)
class HookContext:
    """The optional last argument of a hook."""

    model_dir: str
    transcribe: ServedModel = field(default_factory=ServedModel)
    """The service's own pipeline, even where `model_fn` loads another model."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers by lower-case name; empty while the model is loaded."""

    @property
    def system_properties(self) -> dict[str, str]:
        """The model directory, as SageMaker's own context gives it."""
        return {"model_dir": self.model_dir}

    def get_request_header(self, index: int, name: str) -> str | None:
        """Return a request header, as SageMaker's own context does; a request has one part, index 0."""
        return self.headers.get(name.lower()) if index == 0 else None


class Hooks:
    """The hook functions of one artifact."""

    def __init__(self, path: Path, functions: Mapping[str, Callable[..., Any]], model_dir: Path) -> None:
        """Made by `load_hooks` only."""
        self._path = path
        self._functions = functions
        self._model_dir = model_dir
        self._model: Any = ServedModel()

    @property
    def reads_body(self) -> bool:
        """Whether `input_fn` reads the body, whatever its content type."""
        return "input_fn" in self._functions

    @property
    def writes_answer(self) -> bool:
        """Whether hooks write the response, so that formats and streaming do not apply."""
        return bool(self._functions.keys() & {"predict_fn", "output_fn", "transform_fn"})

    @property
    def takes_any_body(self) -> bool:
        """Whether content types that the service cannot read are accepted."""
        return bool(self._functions.keys() & {"input_fn", "transform_fn"})

    def load_model(self) -> None:
        """Call `model_fn`, if there is one.

        Raises:
            ArtifactError: `model_fn` failed.
        """
        if "model_fn" not in self._functions:
            return
        try:
            self._model = self._run("model_fn", (str(self._model_dir),), {})
        except (Exception, SystemExit) as error:
            raise ArtifactError(self._path, f"model_fn failed: {type(error).__name__}: {error}") from error

    def read(self, body: bytes, content_type: str, headers: Mapping[str, str]) -> object:
        """Call `input_fn`.

        Raises:
            ServiceError: `input_fn` failed or refused the body.
        """
        return self._call("input_fn", (_as_text(body, content_type), content_type), headers)

    def read_recording(
        self, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> tuple[bytes | Samples, dict[str, Any]]:
        """Call `input_fn`, and return its recording and options.

        Raises:
            ServiceError: `input_fn` failed, refused the body, or returned no recording.
        """
        return _recording_of(self.read(body, content_type, headers))

    def answer(
        self,
        body: bytes,
        content_type: str,
        accept: str,
        *,
        headers: Mapping[str, str],
        transcribe: Transcribe,
        read: Callable[[], object],
    ) -> tuple[bytes, str]:
        """Answer a request in the calling thread.

        Args:
            headers: Request headers by lower-case name.
            transcribe: Implements `ServedModel` for this request.
            read: Reads the body where there is no `input_fn`.

        Returns:
            The response body and its content type.

        Raises:
            ServiceError: A hook failed or refused the request.
        """
        token = _transcribe.set(transcribe)
        try:
            if "transform_fn" in self._functions:
                arguments = (self._model, _as_text(body, content_type), content_type, accept)
                return _answer(self._call("transform_fn", arguments, headers), accept)
            data = self.read(body, content_type, headers) if self.reads_body else read()
            if "predict_fn" in self._functions:
                prediction = self._call("predict_fn", (data, self._model), headers)
            else:
                prediction = transcribe(*_recording_of(data))
            if "output_fn" in self._functions:
                return _answer(self._call("output_fn", (prediction, accept), headers), accept)
            return _answer((prediction, content_types.JSON) if _is_json(prediction) else prediction, accept)
        finally:
            _transcribe.reset(token)

    def _call(self, name: str, arguments: tuple[Any, ...], headers: Mapping[str, str]) -> Any:
        """Call a hook, and turn its exceptions into service errors."""
        try:
            return self._run(name, arguments, headers)
        except ServiceError:
            raise  # from the served model: the client gets its usual response
        except UnsupportedFormatError as error:
            raise UnsupportedMediaType(_sentence(error)) from error
        except BaseInferenceToolkitError as error:
            raise HookRefusal(_sentence(error.message), error.status_code) from error
        except ValueError as error:
            raise HookRefusal(_sentence(error)) from error
        except (Exception, SystemExit) as error:
            _log.error("hook.failed", hook=name, error=type(error).__name__, exc_info=True)
            raise HookError(name) from error

    def _run(self, name: str, arguments: tuple[Any, ...], headers: Mapping[str, str]) -> Any:
        function = self._functions[name]
        if len(inspect.signature(function).parameters) > len(arguments):
            context = HookContext(model_dir=str(self._model_dir), headers=headers)
            return function(*arguments, context)
        return function(*arguments)


def load_hooks(model_dir: Path, program: str) -> Hooks | None:
    """Import a user's program from the artifact; None where there is none.

    Adds the program's directory to `sys.path`. Installs nothing.

    Args:
        program: File name below `code/`, with or without `.py`.

    Raises:
        ArtifactError: The program lies outside the artifact, cannot be imported, or has hooks with wrong
            arguments.
    """
    model_dir = find_root(model_dir)
    code_dir = model_dir / CODE_DIR
    path = code_dir / f"{program.removesuffix('.py')}.py"
    if not path.is_file():
        if code_dir.is_dir():
            _log.warning("hooks.missing", path=str(path), reason="code/ holds no such program; none is used")
        return None
    if not path.resolve().is_relative_to(model_dir.resolve()):
        raise ArtifactError(path, "lies outside of the artifact")
    if (code_dir / "requirements.txt").is_file():
        _log.warning("hooks.requirements", reason="requirements.txt is not installed; put it into the image")
    sys.path.insert(0, str(code_dir.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "it is a file named .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ArtifactError(path, f"cannot be imported: {type(error).__name__}: {error}") from error
    functions = {
        name: function for name in ARGUMENTS if (function := getattr(module, name, None)) is not None
    }
    _check(path, functions)
    _log.info("hooks.loaded", path=str(path), hooks=sorted(functions))
    return Hooks(path, functions, model_dir) if functions else None


def read_recording(data: object) -> tuple[bytes | Samples, dict[str, Any]]:
    """Split the result of a hook into a recording and options.

    Args:
        data: Bytes of a file; an array, (n_samples,) or (n_channels, n_samples) at 16 kHz, float or int16; or
            a mapping with one of these, or base64, under `audio`, and options by name.

    Raises:
        RequestError: `audio` is invalid base64.
        TypeError: `data` is none of these.
    """
    if isinstance(data, Mapping):
        options = {str(name): value for name, value in data.items() if name != "audio"}
        audio = data.get("audio")
        if isinstance(audio, str):
            audio = decode_base64(audio)
        return read_recording(audio)[0], options
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), {}
    if isinstance(data, np.ndarray) and data.ndim in (1, 2) and data.size:
        if data.dtype == np.int16:
            return data.astype(np.float32) / np.float32(FULL_SCALE), {}
        if np.issubdtype(data.dtype, np.floating):
            samples = np.nan_to_num(data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
            return samples / np.float32(max(1.0, float(np.abs(samples).max()))), {}
    raise TypeError(
        f"{type(data).__name__} is not a recording, which is bytes, samples, or a mapping with 'audio'"
    )


def _recording_of(data: object) -> tuple[bytes | Samples, dict[str, Any]]:
    try:
        return read_recording(data)
    except TypeError as error:
        _log.error("hook.failed", hook="input_fn", error=str(error))
        raise HookError("input_fn") from error


def _check(path: Path, functions: Mapping[str, Callable[..., Any]]) -> None:
    if "transform_fn" in functions and functions.keys() & {"input_fn", "predict_fn", "output_fn"}:
        raise ArtifactError(path, "transform_fn stands in place of input_fn, predict_fn and output_fn")
    for name, function in functions.items():
        arguments = ARGUMENTS[name]
        try:
            n_parameters = len(inspect.signature(function).parameters)
        except (TypeError, ValueError) as error:
            raise ArtifactError(path, f"{name} is not a function") from error
        if n_parameters not in (len(arguments), len(arguments) + 1):
            raise ArtifactError(path, f"{name} takes {', '.join(arguments)}, and perhaps a context")


def _as_text(body: bytes, content_type: str) -> bytes | str:
    """Return a body as SageMaker's containers pass it: decoded where its type is textual."""
    if content_type.partition(";")[0].strip().lower() not in content_types.UTF8_TYPES:
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8: {error}") from error


def _is_json(prediction: object) -> bool:
    return not isinstance(prediction, str | bytes | bytearray | tuple)


def _answer(result: Any, accept: str) -> tuple[bytes, str]:
    """Return the body and the content type of a hook's result."""
    body, content_type = result if isinstance(result, tuple) and len(result) == 2 else (result, accept)
    if isinstance(body, str):
        encoded = body.encode()
    elif isinstance(body, bytes | bytearray | memoryview):
        encoded = bytes(body)
    else:
        try:
            encoded = msgspec.json.encode(body, enc_hook=_plain)
        except Exception as error:  # msgspec passes on what the objects' own methods raise
            _log.error("hook.failed", error=type(error).__name__, exc_info=True)
            raise HookError("output_fn") from error
    return encoded, content_type


def _plain(value: object) -> object:
    """Turn numpy values into JSON's types."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _sentence(error: object) -> str:
    """Return the first line of a message, cut to 500 letters, for a client."""
    return (str(error).strip().splitlines() or ["the request was refused"])[0][:500]
