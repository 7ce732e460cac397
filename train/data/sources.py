"""Open any source of clips by its name, as records: files, directories, the hub and shards.

Opens no audio. `train.data.specs` defines the names; `train.data.clips` turns a source into clips for
training.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from serve.model.junk import is_junk
from train.data.filters import DropLog, HeldOut, sentence_key
from train.data.hub import read_hub
from train.data.layouts import COMMON_VOICE_SPLITS, common_voice_dir, read_common_voice, read_folder
from train.data.manifest import read_audio, read_records
from train.data.records import Record, VoiceKind
from train.data.shards import HEADER, read_shards
from train.data.specs import Purpose, SourceSpec, parse_spec
from train.errors import DataError

_SAGEMAKER_DIR = "/opt/ml"
_TABLE_SUFFIXES = {".jsonl", ".tsv", ".csv", ".txt", ".json"}


def resolve_channel(spec: SourceSpec, purpose: Purpose, language: str) -> SourceSpec:
    """Return the source that an input channel of a SageMaker training job holds; other sources unchanged.

    Channels lie in `/opt/ml/input/data/NAME`, or below `SAGEMAKER_BASE_DIR` where that is set.

    Raises:
        DataError: There is no such channel, or its content is ambiguous.
    """
    if spec.kind != "channel":
        return spec
    root = Path(os.environ.get("SAGEMAKER_BASE_DIR", _SAGEMAKER_DIR)) / "input" / "data"
    directory = root / spec.location
    if not directory.is_dir():
        there = (
            ", ".join(sorted(path.name for path in root.glob("*") if path.is_dir() and not is_junk(path)))
            or "none"
        )
        raise DataError(f"no channel is named '{spec.location}' in {root}; channels: {there}")

    def found(kind: str, location: Path) -> SourceSpec:
        return dataclasses.replace(spec, kind=kind, location=str(location))

    if (directory / HEADER).is_file():
        return found("shards", directory)
    if common_voice_dir(directory, spec.language or language):
        return found("commonvoice", directory)
    if manifests := sorted(path for path in directory.glob("*.jsonl") if not is_junk(path)):
        fitting = [path for path in manifests if path.stem.startswith(spec.split or purpose)]
        chosen = fitting if len(manifests) > 1 else manifests
        if len(chosen) != 1:
            names = ", ".join(path.name for path in manifests)
            raise DataError(f"channel '{spec.location}' holds {names}; choose one with ?split=NAME")
        return found("manifest", chosen[0])
    is_parquet = any(not is_junk(path.relative_to(directory)) for path in directory.rglob("*.parquet"))
    return found("hf" if is_parquet else "folder", directory)


def read_source(
    spec: SourceSpec, purpose: Purpose, language: str, log: DropLog, *, untranscribed: bool = False
) -> Iterator[Record]:
    """Yield the records of a source, always in the same order; malformed rows go to `log`.

    Every record has a language, and the kind of its voice where its row or the source tells.

    Args:
        purpose: Decides the split where the source names none.
        language: Whisper's code, used where neither source nor row names one.
        log: Collects malformed rows.
        untranscribed: Whether recordings of a folder that lack a transcript are read with an empty text.

    Raises:
        DataError: The source cannot be opened, or the log is strict and a row is bad.
    """
    spec = resolve_channel(spec, purpose, language)
    language, kind = spec.language or language, speakers_of(spec)
    for record in _read_resolved(spec, purpose, language, log, untranscribed):
        yield msgspec.structs.replace(
            record,
            language=record.language or language,
            kind=kind if kind and record.kind == "unknown" else record.kind,
        )


def speakers_of(spec: SourceSpec) -> VoiceKind | None:
    """Return the default kind of voice of a source's rows; None where it is unknown."""
    return spec.speakers or ("people" if spec.kind in ("commonvoice", "preset") else None)


def _read_resolved(
    spec: SourceSpec, purpose: Purpose, language: str, log: DropLog, untranscribed: bool
) -> Iterator[Record]:
    path = Path(spec.location)
    match spec.kind:
        case "manifest":
            yield from read_records(path, log)
        case "commonvoice":
            yield from read_common_voice(path, spec.split or COMMON_VOICE_SPLITS[purpose], language, log)
        case "folder":
            yield from read_folder(path, spec.split, log, untranscribed=untranscribed)
        case "shards":
            for clip in read_shards(path, log):
                yield Record(**clip.carried(), audio=read_audio(clip), origin=clip.origin, kind=clip.kind)
        case _:
            yield from read_hub(spec, purpose, language, log)


def count_records(
    spec: SourceSpec, purpose: Purpose, language: str, *, untranscribed: bool = False
) -> int | None:
    """Return the number of records in a source; None where counting costs as much as reading."""
    spec = resolve_channel(spec, purpose, language)
    if spec.kind not in ("manifest", "commonvoice", "folder"):
        return None
    return sum(1 for _ in read_source(spec, purpose, language, DropLog(), untranscribed=untranscribed))


def read_held_out(texts: Sequence[str], purpose: Purpose, language: str, *, voices: bool = True) -> HeldOut:
    """Return the sentences and, with `voices`, the voices of sources that must not be trained on.

    Bad rows of these sources are ignored here; they are reported where the sources themselves are used.

    Raises:
        DataError: A source cannot be opened.
    """
    sentences: dict[str, str] = {}
    speakers: dict[str, str] = {}
    for text in texts:
        for record in read_source(parse_spec(text), purpose, language, DropLog()):
            if key := sentence_key(record.text):
                sentences.setdefault(key, record.origin)
            if voices and record.voice:
                speakers.setdefault(record.voice, record.origin)
    return HeldOut(sentences, speakers)


def source_fingerprint(spec: SourceSpec, purpose: Purpose, language: str) -> str:
    """Return a hash of the source's tables, or of its files' names and sizes, to notice changed rows.

    For corpora of the hub, only the name is hashed.
    """
    spec = resolve_channel(spec, purpose, language)
    digest = hashlib.sha256(f"{spec} {purpose if spec.split is None else ''} {language}".encode())
    path = Path(spec.location)
    if spec.kind == "manifest" and path.is_file():
        digest.update(path.read_bytes())
    elif spec.kind == "commonvoice" and (release := common_voice_dir(path, spec.language or language)):
        for split in (spec.split or COMMON_VOICE_SPLITS[purpose]).split("+"):
            table = release / f"{'dev' if split == 'validation' else split}.tsv"
            digest.update(table.read_bytes() if table.is_file() else b"")
    elif spec.kind in ("folder", "hf", "shards") and path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if is_junk(file.relative_to(path)):
                continue
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
            if file.suffix in _TABLE_SUFFIXES:
                digest.update(file.read_bytes())
    return digest.hexdigest()
