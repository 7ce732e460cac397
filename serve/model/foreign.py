"""Models without a manifest, made by other tools: what their directory holds, and safe defaults for them.

These are LoRA adapters saved by peft, transformers checkpoints (such as an adapter merged into its base), and
CTranslate2 directories. How they were trained is unknown, so the defaults are windows of 30 s, all tokens,
and a detected language, unless whoever serves them says otherwise (`Told`). Loads no model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from serve.errors import ArtifactError, BaseModelError
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import (
    ADAPTER_CONFIG,
    BASE_CONFIG,
    CT2_WEIGHTS,
    MANIFEST,
    SCHEMA_VERSION,
    Artifact,
    BaseModel,
    Kind,
    Manifest,
    Told,
    load_artifact,
)
from serve.model.base_model import base_fingerprint, name_of_base, resolve_base_model
from serve.model.completed import is_converted

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""Name of a model on the Hugging Face hub: owner and model."""

_LIKE_ITS_BASE = {"vocab_size": "tokens", "num_mel_bins": "mel bands"}
"""Key of `config.json` that a whole model must share with the base model beside it -> what it counts."""


def kind_of(directory: Path) -> Kind | None:
    """Return the kind of model that a directory holds; None if it holds none."""
    if (directory / MANIFEST).is_file():
        return "artifact"
    if (directory / ADAPTER_CONFIG).is_file():
        return "peft"
    if not (directory / BASE_CONFIG).is_file():
        return None
    return "ctranslate2" if (directory / CT2_WEIGHTS).is_file() else "checkpoint"


def base_of_peft(directory: Path) -> str | None:
    """Return the base model that a peft directory names; None if it names none.

    Raises:
        ArtifactError: Its configuration is not a JSON object.
    """
    path = directory / ADAPTER_CONFIG
    try:
        named = _json_object(path).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ArtifactError(path, "is not a JSON object") from error
    return named if isinstance(named, str) and named.strip() else None


def peft_artifact(directory: Path, base_dir: Path, told: Told) -> Artifact:
    """Return a peft directory as an artifact for the base model in `base_dir`.

    Raises:
        ArtifactError: It was trained on another base model, which the message names; or it is damaged.
    """
    if is_converted(base_dir):
        raise ArtifactError(directory, "is an adapter, which cannot be added to a model of CTranslate2")
    named, fingerprint = base_of_peft(directory), base_fingerprint(base_dir)
    own = name_of_base(base_dir)
    if named is not None and _is_another(named, own, fingerprint):
        raise ArtifactError(
            directory / ADAPTER_CONFIG,
            f"base_model_name_or_path: the adapter was trained on {named[:100]}, and {own} is served",
        )
    try:
        check_adapter(directory, base_dir)
    except ArtifactError as error:
        trained_on = "" if named is None else f"; its base model is {named[:100]}, and {own} is served"
        raise ArtifactError(error.path, f"{error.problem}{trained_on}") from error
    base = BaseModel(name=named or own, fingerprint=fingerprint)
    return _artifact(directory, "peft", base, told)


def whole_artifact(directory: Path, kind: Kind, base_dir: Path, told: Told) -> Artifact:
    """Return a whole model as an artifact that is served beside a base model.

    Args:
        directory: A checkpoint or a CTranslate2 directory.
        kind: Kind of the model.
        base_dir: The base model, whose tokenizer and features are used for both.
        told: Facts about the model.

    Raises:
        ArtifactError: Its vocabulary or its features differ from the base model's.
    """
    path = directory / BASE_CONFIG
    try:
        own, base = _json_object(path), _json_object(base_dir / BASE_CONFIG)
        if kind == "ctranslate2":
            n_tokens = len(_vocabulary(directory))
            own = {"vocab_size": n_tokens} if n_tokens else {}
    except (OSError, ValueError) as error:
        raise ArtifactError(path, "is not a JSON object") from error
    for key, what in _LIKE_ITS_BASE.items():
        if key in own and key in base and own[key] != base[key]:
            raise ArtifactError(
                path,
                f"the model has {own[key]} {what}, and {name_of_base(base_dir)} beside which it would be"
                f" served has {base[key]}; serve it alone, with --model-dir",
            )
    return _artifact(directory, kind, BaseModel(name=name_of_base(base_dir), fingerprint=""), told)


def read_artifact(directory: Path, base_dir: Path, fingerprint: str, told: Told) -> Artifact:
    """Return a directory's artifact, checked against the base model that it is served on or beside.

    Raises:
        ArtifactError: A file is missing or damaged, or does not fit the base model.
    """
    kind = kind_of(directory)
    if kind == "peft":
        return peft_artifact(directory, base_dir, told)
    if kind in ("checkpoint", "ctranslate2"):
        return whole_artifact(directory, kind, base_dir, told)
    artifact = load_artifact(directory)
    if not told.is_nothing:
        raise ArtifactError(artifact.path / MANIFEST, "says itself what language and encoder_context are")
    artifact.require_base(fingerprint)
    check_adapter(artifact.adapter_dir, base_dir)
    return artifact


def _is_another(named: str, own: str, fingerprint: str) -> bool:
    """Tell whether a name certainly belongs to another base model than the served one.

    Names of directories prove nothing; for them the shapes of tensors decide.
    """
    if named == own or not HUB_NAME.fullmatch(named) or Path(named).is_dir():
        return False
    if HUB_NAME.fullmatch(own):
        return True
    try:
        return base_fingerprint(resolve_base_model(named, offline=True)) != fingerprint
    except BaseModelError:  # it is not on this machine
        return False


def _artifact(directory: Path, kind: Kind, base: BaseModel, told: Told) -> Artifact:
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=re.sub(r"[^A-Za-z0-9._:-]", "-", directory.name).lstrip("._:-") or "adapter",
        base_model=base,
        language=told.language,
        encoder_context=told.encoder_context,
    )
    return Artifact(path=directory, manifest=manifest, kind=kind)


def _vocabulary(directory: Path) -> list[str]:
    """Return the tokens of a CTranslate2 directory; none if the format of their file is unknown."""
    if (path := directory / "vocabulary.json").is_file():
        tokens: list[str] = json.loads(path.read_bytes())
        return tokens
    if (path := directory / "vocabulary.txt").is_file():
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return []


def _json_object(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("no object")
    return content
