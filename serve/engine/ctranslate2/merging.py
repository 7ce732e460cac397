"""Merge an adapter into its base model, convert the result for CTranslate2, and cache it.

    base in fp32 + adapter ─► merged weights ─► CTranslate2 directory, quantised last

Merging into 8-bit weights would round twice and change the text, so quantisation always comes last. A model
that writes few scripts can be kept with their tokens alone (`serve.engine.ctranslate2.kept_tokens`). The
cache name of a converted model is a hash of all its ingredients, so a stale one is never used. torch,
transformers and peft are imported only to convert.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from serve.engine.ctranslate2.apart import convert_apart
from serve.engine.ctranslate2.kept_tokens import KeptTokens, tokens_of_scripts
from serve.engine.vocabulary import Vocabulary
from serve.errors import ArtifactError, BaseModelError, ConversionError
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Artifact
from serve.model.base_model import base_fingerprint, built_in_dirs, default_cache_dir
from serve.model.build_once import build_once
from serve.model.completed import is_converted
from serve.model.digests import SIZES, described, is_as_recorded

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration

Storage = Literal["int8", "int8_float16", "float16", "float32"]
"""How a converted model stores its linear layers and, after the underscore, all other weights."""

RECORD = "merged.json"
"""File that records a converted model's ingredients, for use where the adapter is not at hand."""

KEPT_TOKENS = "kept_tokens.json"
"""File that lists a reduced model's tokens by their full-vocabulary numbers; absent where all are kept."""

REVISION = 2
"""Increased when conversion itself changes, so that older cached models are converted again."""

COPIED_FILES = ("tokenizer.json", "preprocessor_config.json")
"""Files that faster-whisper reads; `preprocessor_config.json` gives the number of mel bands."""

WEIGHTS = "model.bin"
"""File of a converted model that is read into memory whole: its weights."""

_log = structlog.get_logger(__name__)


def converted_model(
    base_dir: Path,
    artifact: Artifact | None,
    storage: Storage,
    *,
    scripts: Sequence[str] | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """Return the CTranslate2 directory of a base model with an artifact's adapter, converting it if needed.

    It is looked up in the artifact (`carried_model`), then in `built_in_dirs`, then in the cache. Safe when
    several processes start at once.

    Args:
        artifact: Holds the adapter; None converts the base model alone.
        scripts: Keep only the tokens of these scripts; None keeps all.

    Raises:
        ConversionError: The model cannot be converted or stored.
    """
    if artifact is None and is_converted(base_dir):
        return base_dir
    wanted = record(base_dir, artifact, storage, scripts)
    if artifact is not None and _is_whole(own := carried_model(artifact.path, storage, scripts), wanted):
        return own

    place = Path("converted") / _directory_name(wanted)
    cache_dir = cache_dir or default_cache_dir()
    for directory in (*built_in_dirs(), cache_dir):
        if _is_whole(directory / place, wanted):
            return directory / place
    target = cache_dir / place

    def build(building: Path) -> None:
        _log.info("converted_model.building", path=str(target))
        # Whoever trains or evaluates has loaded what converting takes; whoever serves never does.
        convert_here_or_apart = convert if "transformers" in sys.modules else convert_apart
        convert_here_or_apart(base_dir, artifact, storage, building, scripts)
        write_record(building, wanted)

    try:
        build_once(target, lambda: _is_whole(target, wanted), build, ConversionError)
    except OSError as error:
        raise ConversionError(
            f"the converted model cannot be kept in {cache_dir}: {error.strerror or error}; make room or name"
            " another directory with --cache-dir"
        ) from error
    return target


def carried_model(artifact_dir: Path, storage: Storage, scripts: Sequence[str] | None = None) -> Path:
    """Return where an artifact carries a converted model: `merged-ct2-int8/`, `...-few-tokens/` and the like.

    Args:
        scripts: Not None for the model with few tokens; None for the one with all tokens, which other
            programs can load.
    """
    return artifact_dir / f"merged-ct2-{storage}{'' if scripts is None else '-few-tokens'}"


def convert(
    base_dir: Path,
    artifact: Artifact | None,
    storage: Storage,
    into: Path,
    scripts: Sequence[str] | None = None,
) -> None:
    """Write a CTranslate2 model together with the files that faster-whisper reads.

    Args:
        artifact: Holds the adapter; None converts the base model alone.
        scripts: Keep only the tokens of these scripts; None keeps all.

    Raises:
        ConversionError: Base and adapter do not fit each other, or CTranslate2 does not support the model.
        OSError: The files cannot be written.
    """
    model = merge(base_dir, artifact)
    # Imported here because it imports torch and transformers.
    from ctranslate2.converters.converter import Converter
    from ctranslate2.converters.transformers import WhisperLoader
    from transformers import AutoTokenizer

    vocabulary = Vocabulary.read(base_dir)
    kept: KeptTokens | None = None
    if scripts is not None:
        n_rows = model.config.vocab_size
        kept = KeptTokens([token for token in tokens_of_scripts(vocabulary, scripts) if token < n_rows])
        _keep_tokens(model, kept)

    class MergedLoader(WhisperLoader):  # type: ignore[misc]
        def get_vocabulary(self, model: WhisperForConditionalGeneration, tokenizer: Any) -> list[str]:
            if kept is None:
                names: list[str] = super().get_vocabulary(model, tokenizer)
                return names
            return [vocabulary.tokenizer.id_to_token(token) or f"<|{token}|>" for token in kept]

    class MergedConverter(Converter):  # type: ignore[misc]
        def _load(self) -> Any:
            spec = MergedLoader()(model, AutoTokenizer.from_pretrained(base_dir, local_files_only=True))
            for name in COPIED_FILES:
                spec.register_file(str(base_dir / name))
            return spec

    try:
        MergedConverter().convert(str(into), quantization=storage)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ConversionError(f"CTranslate2 cannot convert {base_dir}: {error}") from error
    shutil.copy(base_dir / "generation_config.json", into)
    if kept is not None:
        (into / KEPT_TOKENS).write_text(json.dumps(list(kept)), encoding="utf-8")
    if artifact is not None and artifact.may_be_silent:
        _allow_empty_text(into, vocabulary.end if kept is None else kept.to_kept([vocabulary.end])[0])


def kept_tokens(directory: Path) -> KeptTokens | None:
    """Return the tokens of a reduced model; None where a model has the full vocabulary.

    Raises:
        ConversionError: The file that lists them is damaged.
    """
    path = directory / KEPT_TOKENS
    try:
        return KeptTokens(json.loads(path.read_bytes())) if path.exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise ConversionError(f"{path} cannot be read: {error}") from error


def merge(base_dir: Path, artifact: Artifact | None) -> WhisperForConditionalGeneration:
    """Return the base model in fp32, merged with the adapter where there is one.

    Raises:
        ConversionError: Base and adapter do not fit each other.
    """
    import torch

    from serve.engine.transformers.quiet import quiet_libraries

    quiet_libraries()  # before peft and its libraries, some of which print on import
    from serve.engine.transformers.adapter import attach_adapter, load_base

    try:
        model = load_base(base_dir, dtype=torch.float32)
        if artifact is not None:
            check_adapter(artifact.adapter_dir, base_dir)
            model = attach_adapter(model, artifact.adapter_dir).merge_and_unload()
    except (ArtifactError, BaseModelError, RuntimeError, ValueError) as error:
        parts = f"{base_dir}" if artifact is None else f"{artifact.adapter_dir} and {base_dir}"
        raise ConversionError(f"{parts} cannot be loaded together: {error}") from error
    return model


def record(
    base_dir: Path, artifact: Artifact | None, storage: Storage, scripts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the ingredients of a converted model, as `merged.json` records them."""
    adapter: dict[str, Any] = {} if artifact is None else adapter_hashes(artifact)
    if scripts is not None:
        adapter["scripts"] = sorted(scripts)
    return {
        "format": f"ct2-{storage}",
        "revision": REVISION,
        "base_fingerprint": base_fingerprint(base_dir)
        if artifact is None
        else artifact.manifest.base_model.fingerprint,
        "prompt_sha256": _sha256([base_dir / name for name in (*COPIED_FILES, "generation_config.json")]),
        **adapter,
        **({} if artifact is None or artifact.may_be_silent else {"never_silent": True}),
    }


def adapter_hashes(artifact: Artifact) -> dict[str, str]:
    """Return hashes of an adapter's weights and of its configuration, which holds their scale."""
    return {
        "adapter_sha256": _sha256([artifact.adapter_dir / ADAPTER_WEIGHTS]),
        "adapter_config_sha256": _sha256([artifact.adapter_dir / ADAPTER_CONFIG]),
    }


def write_record(directory: Path, ingredients: dict[str, Any]) -> None:
    """Write `merged.json` into a finished model: its ingredients, and sizes and hashes of its files."""
    text = json.dumps({**ingredients, **described(directory)}, ensure_ascii=False, indent=2)
    (directory / RECORD).write_text(text + "\n", encoding="utf-8")


def _is_whole(directory: Path, wanted: dict[str, Any]) -> bool:
    """Tell whether a directory holds the wanted model, complete and undamaged."""
    try:
        found = json.loads((directory / RECORD).read_bytes())
        return (
            all(found.get(name) == value for name, value in wanted.items())
            and WEIGHTS in found[SIZES]
            and is_as_recorded(directory / RECORD)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no record, or a foreign one
        return False


def _directory_name(ingredients: dict[str, Any]) -> str:
    named = {**ingredients, "converter": version("ctranslate2")}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
    return f"{ingredients['format']}-{digest[:32]}"


def _keep_tokens(model: WhisperForConditionalGeneration, kept: KeptTokens) -> None:
    """Reduce a model's embeddings and output layer to the kept tokens, in place."""
    import torch

    decoder, output, is_tied = model.model.decoder, model.proj_out.weight, _is_tied(model)
    fewer = torch.nn.Embedding(len(kept), model.config.d_model)
    fewer.weight.data = decoder.embed_tokens.weight.data[list(kept)].clone()
    decoder.embed_tokens = fewer
    model.proj_out = torch.nn.Linear(fewer.embedding_dim, fewer.num_embeddings, bias=False)
    model.proj_out.weight = fewer.weight if is_tied else torch.nn.Parameter(output.data[list(kept)].clone())
    model.config.vocab_size = fewer.num_embeddings
    generation: Any = model.generation_config
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        setattr(generation, name, kept.to_kept(getattr(generation, name, None) or []))
    languages: dict[str, int] = getattr(generation, "lang_to_id", None) or {}
    generation.lang_to_id = {name: kept.to_kept([token])[0] for name, token in languages.items()}


def _is_tied(model: WhisperForConditionalGeneration) -> bool:
    """Tell whether output layer and embedding share weights; not so where an adapter saved one of the two."""
    same: bool = model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()
    return same


def _allow_empty_text(directory: Path, end: int) -> None:
    """Allow the end token first, since adapters are trained to answer noise with an empty text.

    The base model is not trained to, and would stop at random; its `suppress_ids_begin` stays.
    """
    path = directory / "config.json"
    config = json.loads(path.read_bytes())
    config["suppress_ids_begin"] = [token for token in config["suppress_ids_begin"] or [] if token != end]
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" if len(files) > 1 else b"")
            digest.update(file.read_bytes())
    return digest.hexdigest()
