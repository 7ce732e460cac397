"""Models that others made, without a manifest: what their directory holds, and what is taken for granted.

peft's directory of a LoRA adapter, a transformers checkpoint (such as an adapter merged into its base), and a
directory of CTranslate2. Nothing is known of how they were trained, so the safe defaults hold: windows of
30 s, every token, a language that is detected. Whoever serves them may say better. Loads no model.
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
"""Owner and model, as the Hugging Face hub names them."""

_LIKE_ITS_BASE = {"vocab_size": "tokens", "num_mel_bins": "mel bands"}
"""Key of `config.json` -> what a whole model must share with the base that it is served beside."""


def kind_of(directory: Path) -> Kind | None:
    """Say what a directory holds; None where it is nothing that could be served."""
    if (directory / MANIFEST).is_file():
        return "artifact"
    if (directory / ADAPTER_CONFIG).is_file():
        return "peft"
    if not (directory / BASE_CONFIG).is_file():
        return None
    return "ctranslate2" if (directory / CT2_WEIGHTS).is_file() else "checkpoint"


def base_of_peft(directory: Path) -> str | None:
    """Return the base model that peft's directory names.

    Raises:
        ArtifactError: Its configuration is no JSON object.
    """
    path = directory / ADAPTER_CONFIG
    try:
        named = _json_object(path).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ArtifactError(path, "is not a JSON object") from error
    return named if isinstance(named, str) and named.strip() else None


def peft_artifact(directory: Path, base_dir: Path, told: Told) -> Artifact:
    """Return peft's directory as an artifact of the base model that it is served on.

    Raises:
        ArtifactError: It was made for another base model, which the sentence names; or it is damaged.
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
        directory: A checkpoint, or a directory of CTranslate2.
        kind: Which of the two.
        base_dir: The base model, whose tokenizer and features serve both.
        told: What is known of it.

    Raises:
        ArtifactError: It reads other features, or writes other tokens.
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
    """Return what is in a directory, checked against the base model that it is served on or beside.

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
    """Tell whether a name is surely that of another base model than the one that is served.

    A directory may be called anything; the shapes of tensors decide there.
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
    """Return the tokens of a directory of CTranslate2; none where its format is not known."""
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
