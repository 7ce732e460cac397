"""Complete a checkpoint made by other tools with files that follow from those that it has.

Fine-tuning scripts save the tokenizer in its older form, the feature settings inside another file, or
neither; a CTranslate2 directory has in `config.json` what transformers has in `generation_config.json`. The
completed directory lies in the cache and links to the original files.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import structlog
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from serve.errors import BaseModelError
from serve.model.artifact import CT2_WEIGHTS
from serve.model.base_model import REQUIRED_FILES, default_cache_dir
from serve.model.build_once import build_once

FEATURES, GENERATION, TOKENIZER = "preprocessor_config.json", "generation_config.json", "tokenizer.json"

V3_TOKENS = 51_866
"""Vocabulary from large-v3 on, which has one language more; these models read 128 mel bands, not 80."""

ENGLISH_TOKENS = 51_864
"""Vocabulary of English-only models."""

_SPECIAL, _LANGUAGE = re.compile(r"<\|.*\|>"), re.compile(r"<\|[a-z]{2,3}\|>")

_log = structlog.get_logger(__name__)


def completed_checkpoint(directory: Path, *, like: Path | None = None, cache_dir: Path | None = None) -> Path:
    """Return a directory with all files of a checkpoint: the given one, or one in the cache.

    Args:
        directory: A transformers checkpoint or a CTranslate2 directory.
        like: Checkpoint whose tokenizer is used if the directory has none.
        cache_dir: Cache of completed directories; `default_cache_dir()` if None.

    Raises:
        BaseModelError: A missing file does not follow from the others.
    """
    missing = [name for name in REQUIRED_FILES if not (directory / name).is_file()]
    if not missing or missing[0] == "config.json":
        return directory
    target = (cache_dir or default_cache_dir()) / "completed" / _directory_name(directory, like)

    def build(building: Path) -> None:
        building.mkdir()
        for file in directory.iterdir():
            if file.is_file():
                (building / file.name).symlink_to(file.resolve())
        if TOKENIZER in missing:
            _write_tokenizer(directory, building, like)
        if FEATURES in missing:
            _write_json(building / FEATURES, _features_of(building))
        if GENERATION in missing:
            _write_json(building / GENERATION, _generation_of(building))
        _log.info("checkpoint.completed", path=str(target), added=missing)

    try:
        build_once(target, lambda: _is_whole(target), build, BaseModelError)
    except OSError as error:
        raise BaseModelError(
            f"{directory} lacks {', '.join(missing)}, and {target.parent} cannot be written:"
            f" {error.strerror or error}"
        ) from error
    return target


def _is_whole(target: Path) -> bool:
    """Tell whether a completed directory exists, and the files that it links to."""
    return target.is_dir() and all(file.is_file() for file in target.iterdir())


def _directory_name(directory: Path, like: Path | None) -> str:
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in directory.iterdir())
    made_of = repr((str(directory.resolve()), files, str(like)))
    return hashlib.sha256(made_of.encode()).hexdigest()[:32]


def _write_tokenizer(directory: Path, into: Path, like: Path | None) -> None:
    """Write `tokenizer.json` from its older form, or link to that of `like`."""
    if not lacks_tokenizer(directory):
        try:
            _tokenizer_of(directory).save(str(into / TOKENIZER))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise BaseModelError(f"{directory}: the tokenizer cannot be read: {error}") from error
        return
    if like is None:
        raise BaseModelError(
            f"{directory} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); name the model"
            " that it was made from with --base-model"
        )
    (into / TOKENIZER).symlink_to((like / TOKENIZER).resolve())


def _tokenizer_of(directory: Path) -> Tokenizer:
    """Return Whisper's tokenizer, which is GPT-2's with further tokens, from its older files."""
    vocabulary = _read_json(directory / "vocab.json")
    model = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added: dict[str, int] = _read_json(directory / "added_tokens.json")
    special = {name: number for name, number in vocabulary.items() if _SPECIAL.fullmatch(name)} | added
    for name in sorted(special, key=special.__getitem__):
        is_time = name[2:3].isdigit()
        tokenizer.add_tokens([AddedToken(name, special=not is_time, normalized=False)])
        if tokenizer.token_to_id(name) != special[name]:
            raise ValueError(f"'{name}' is not token {special[name]}")
    return tokenizer


def _features_of(directory: Path) -> dict[str, Any]:
    """Return the feature settings: the processor's, or Whisper's with the model's number of mel bands."""
    processor = _read_json(directory / "processor_config.json")
    if isinstance(nested := processor.get("feature_extractor"), dict):
        return nested
    n_tokens = len(_tokens(directory))
    usual = 128 if n_tokens >= V3_TOKENS else 80
    n_mels = _read_json(directory / "config.json").get("num_mel_bins", usual)
    return {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": n_mels}


def _generation_of(directory: Path) -> dict[str, Any]:
    """Return the generation settings: roles of tokens, by their names, and suppressed tokens."""
    config, tokens = _read_json(directory / "config.json"), _tokens(directory)
    after, before = tokens.get("<|startoftranscript|>", -1), tokens.get("<|translate|>", -1)
    languages = {
        name: number
        for name, number in tokens.items()
        if after < number < before and _LANGUAGE.fullmatch(name)
    }
    is_multilingual = len(languages) > 1 and config.get("vocab_size") != ENGLISH_TOKENS
    found: dict[str, Any] = {
        "is_multilingual": is_multilingual,
        "suppress_tokens": config.get("suppress_tokens") or config.get("suppress_ids") or [],
        "begin_suppress_tokens": config.get("begin_suppress_tokens")
        or config.get("suppress_ids_begin")
        or [tokens["<|endoftext|>"]],
        "no_timestamps_token_id": tokens.get("<|notimestamps|>"),
        "decoder_start_token_id": tokens.get("<|startoftranscript|>"),
        "eos_token_id": tokens["<|endoftext|>"],
        "pad_token_id": tokens["<|endoftext|>"],
    }
    if is_multilingual:
        found["lang_to_id"] = languages
        found["task_to_id"] = {task: tokens[f"<|{task}|>"] for task in ("translate", "transcribe")}
    if heads := config.get("alignment_heads"):
        found["alignment_heads"] = heads
    return found


def _tokens(directory: Path) -> dict[str, int]:
    """Return the ids of all tokens."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise BaseModelError(f"{directory / TOKENIZER}: {error}") from error
    numbers: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    return numbers


def lacks_tokenizer(directory: Path) -> bool:
    """Tell whether a checkpoint has no tokenizer of its own."""
    older = ("vocab.json", "merges.txt")
    return not (directory / TOKENIZER).is_file() and not all((directory / name).is_file() for name in older)


def is_converted(directory: Path) -> bool:
    """Tell whether a directory holds a CTranslate2 model, which needs no conversion."""
    return (directory / CT2_WEIGHTS).is_file()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
