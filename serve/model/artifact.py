"""Read and check an artifact directory: `manifest.json`, `adapter/`. Knows no model and no HTTP.

What others made, without a manifest, becomes an artifact in `serve.model.foreign`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from safetensors import SafetensorError, safe_open

from serve.errors import ArtifactError
from serve.model.durable_write import write_whole
from serve.model.junk import is_junk
from serve.model.scripts import SCRIPTS

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ADAPTER_DIR = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
BASE_CONFIG = "config.json"
"""File that marks a base model's checkpoint."""

CT2_WEIGHTS = "model.bin"
"""File that marks a directory of CTranslate2, which has a `config.json` as well."""

Kind = Literal["artifact", "peft", "checkpoint", "ctranslate2"]
"""An adapter with our manifest, or one without; a whole model of transformers, or of CTranslate2."""

_MARKS = (MANIFEST, BASE_CONFIG, ADAPTER_CONFIG)
"""Any of these says that a directory holds what can be served."""

_MAX_FOLDERS_ON_TOP = 3


class BaseModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which base model an adapter belongs to."""

    name: str
    """Name or directory that `resolve_base_model` understands."""
    fingerprint: str
    """`base_fingerprint` of the weights the adapter was trained on."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json` of an artifact: what the server has to know about an adapter."""

    schema_version: int
    name: str
    base_model: BaseModel
    language: str | None
    """Language code the adapter was trained on; None for several."""
    task: Literal["transcribe", "translate"] = "transcribe"
    encoder_context: Literal["fixed", "dynamic"] = "fixed"
    """`dynamic`: trained on windows of the clip's own length; `fixed`: on 30 s."""
    window_margin_s: float = 1.0
    """Silence that the server adds behind the speech of a dynamic window, in seconds."""
    max_window_s: float = 30.0
    """Longest stretch of speech that the adapter met in training, in seconds."""
    timestamps: bool = False
    """Whether the adapter was trained with timestamp tokens."""
    scripts: tuple[str, ...] | None = None
    """Unicode names of the scripts of all training texts; the adapter writes in no other. None: any."""
    known_text: str | None = None
    """What the exported adapter wrote for the recording of `serve.service.known_sound`. None: not noted."""
    created: str = ""
    """UTC time of the export, ISO 8601."""
    training: dict[str, Any] = {}
    """Record of the training run, for people."""
    evaluation: dict[str, Any] = {}
    """Record of the evaluation, for people."""

    @property
    def few_token_scripts(self) -> tuple[str, ...] | None:
        """Scripts whose tokens suffice for the adapter's own language; None where it needs every token."""
        return None if self.language is None else self.scripts


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a model without a manifest, given by whoever serves it."""

    language: str | None = None
    """Language code; None detects it."""
    encoder_context: Literal["fixed", "dynamic"] = "fixed"
    """`dynamic` for an adapter that was trained on windows of the clip's own length."""

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was said."""
        return self == Told()


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A checked artifact directory."""

    path: Path
    manifest: Manifest
    kind: Kind = "artifact"

    @property
    def adapter_dir(self) -> Path:
        """Directory of the peft adapter."""
        return self.path / ADAPTER_DIR if self.kind == "artifact" else self.path

    @property
    def may_be_silent(self) -> bool:
        """Whether an empty text may be its answer: to noise, as ours are trained; others stop at random."""
        return self.kind == "artifact"

    def require_base(self, fingerprint: str) -> None:
        """Refuse a base model whose `base_fingerprint` is not that of the one the adapter was trained on.

        Raises:
            ArtifactError: The adapter belongs to another base model.
        """
        base = self.manifest.base_model
        if base.fingerprint != fingerprint:
            raise ArtifactError(
                self.path / MANIFEST,
                f"base_model.fingerprint: the adapter was trained on another base model, {base.name[:100]}",
            )


def find_root(directory: Path) -> Path:
    """Return where an artifact or a checkpoint lies: in a directory, or in the only folder of it.

    An archive that was packed from outside has such a folder on top: `model.tar.gz` with `mr/manifest.json`.
    Where that leaves a choice, the directory itself is returned.
    """
    root = directory
    for _ in range(_MAX_FOLDERS_ON_TOP + 1):
        if any((root / name).is_file() for name in _MARKS):
            return root
        entries = [each for each in root.iterdir() if not is_junk(each)] if root.is_dir() else []
        if len(entries) != 1 or not entries[0].is_dir() or entries[0].name == ADAPTER_DIR:
            break  # an artifact that has lost its manifest is none, nor is it somebody else's adapter
        root = entries[0]
    return directory


def load_artifact(model_dir: Path) -> Artifact:
    """Return the artifact in `model_dir`, or in the only folder of it; see `find_root`.

    Raises:
        ArtifactError: Names the file and what is wrong with it.
    """
    model_dir = find_root(model_dir)
    manifest = load_manifest(model_dir)
    config = model_dir / ADAPTER_DIR / ADAPTER_CONFIG
    if not config.is_file():
        raise ArtifactError(config, "the file is missing")
    tensor_names(model_dir / ADAPTER_DIR / ADAPTER_WEIGHTS)
    return Artifact(path=model_dir, manifest=manifest)


def tensor_names(weights: Path) -> list[str]:
    """Return the names of an adapter's tensors as its file has them.

    Raises:
        ArtifactError: The file is missing, or is no whole safetensors file.
    """
    if not weights.is_file():
        raise ArtifactError(weights, "the file is missing")
    try:
        with safe_open(weights, framework="np") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ArtifactError(weights, "not a whole safetensors file") from error


def load_manifest(model_dir: Path) -> Manifest:
    """Return the checked `manifest.json` of a directory.

    Raises:
        ArtifactError: The file is missing, is not JSON, lacks a field or contradicts itself.
    """
    path = find_root(model_dir) / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise ArtifactError(path, f"the file is missing{what_is_there(model_dir)}") from error
    except OSError as error:
        raise ArtifactError(path, f"cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ArtifactError(path, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(path, f"not JSON: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            path, f"schema_version is {manifest.schema_version}; this version reads {SCHEMA_VERSION}"
        )
    if not 1.0 <= manifest.max_window_s <= 30.0:
        raise ArtifactError(path, f"max_window_s is {manifest.max_window_s}; it must be between 1 and 30")
    if not 0.0 <= manifest.window_margin_s <= 10.0:
        raise ArtifactError(
            path, f"window_margin_s is {manifest.window_margin_s}; it must be between 0 and 10"
        )
    if unknown := sorted(set(manifest.scripts or ()) - set(SCRIPTS)):
        raise ArtifactError(path, f"scripts: '{unknown[0]}' is not a script that this version knows")
    return manifest


def what_is_there(directory: Path) -> str:
    """Return the rest of a sentence that says what a directory holds which lacks what it should hold."""
    if not directory.is_dir():
        return "; the directory does not exist"
    entries = sorted(each for each in directory.iterdir() if not is_junk(each))
    if packed := [each.name for each in entries if each.name.endswith((".tar.gz", ".tgz", ".tar", ".zip"))]:
        return f"; {packed[0]} is an archive: unpack it, and name the directory that holds {MANIFEST}"
    below = [each.name for each in entries if any((each / name).is_file() for name in _MARKS)]
    if below and not (directory / ADAPTER_DIR).is_dir():
        return f"; there are models in the folders below it ({', '.join(below[:5])}): name one of these"
    return "; is this an artifact directory?" if entries else "; the directory is empty"


def write_manifest(model_dir: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, indented for people."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_whole(model_dir / MANIFEST, text + b"\n")
