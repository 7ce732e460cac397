"""Make of any source the clips that training and evaluation read: rows of a manifest, or of shards.

Other sources are decoded once, into shards that a later run finds again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from msgspec import structs

from train.data.filters import MAX_CLIP_S, MIN_CLIP_S, DropLog, Filters, commonest
from train.data.manifest import Clip, filter_clips, read_manifest
from train.data.preparation import Preparation, prepare_source
from train.data.shards import read_shards
from train.data.sources import resolve_channel, source_fingerprint, speakers_of
from train.data.specs import Purpose, SourceSpec, parse_spec
from train.errors import DataError


def load_clips(
    source: str, purpose: Purpose, language: str, *, log: DropLog, filters: Filters, prepare_dir: Path
) -> list[Clip]:
    """Return the clips of a source that pass the filters, in its order; the others go to `log`.

    Every clip says its language, and who speaks in it as far as its row, its voice or the source tells.

    Args:
        source: as `train.data.specs` names them.
        purpose: decides the split where the source names none.
        language: Whisper's code, where the source names none.
        log: where rows go that cannot be used.
        filters: what the clips must be like; applied to prepared clips again on each call.
        prepare_dir: holds a directory of shards for each source that is neither manifest nor shards.

    Raises:
        DataError: the source cannot be read, nothing of it passes, or the log is strict and a row is bad.
    """
    spec = resolve_channel(parse_spec(source), purpose, language)
    language, kind = spec.language or language, speakers_of(spec)
    if filters.language:
        filters = dataclasses.replace(filters, language=language)
    return [
        structs.replace(
            clip,
            language=clip.language or language,
            kind=kind if kind and clip.kind == "unknown" else clip.kind,
        )
        for clip in _read_clips(spec, purpose, language, log, filters, prepare_dir)
    ]


def _read_clips(
    spec: SourceSpec, purpose: Purpose, language: str, log: DropLog, filters: Filters, prepare_dir: Path
) -> list[Clip]:
    if spec.kind == "manifest":
        return read_manifest(Path(spec.location), log, filters)
    directory = Path(spec.location)
    if spec.kind != "shards":
        spec = dataclasses.replace(spec, speakers=None)  # it decides nothing that is decoded
        fingerprint = source_fingerprint(spec, purpose, language)
        key = hashlib.sha256(f"{spec} {purpose} {fingerprint}".encode()).hexdigest()[:8]
        directory = prepare_dir / f"{spec.name}-{key}"
        limits = (
            Filters(silent=True)
            if purpose == "test"
            else Filters(min_duration_s=MIN_CLIP_S, max_duration_s=MAX_CLIP_S)
        )
        prepare_source(
            Preparation(
                spec=spec,
                purpose=purpose,
                language=language,
                filters=limits,
                workers=os.cpu_count() or 1,
                strict=log.strict,
            ),
            directory,
        )
    n_before = len(log)
    clips = filter_clips(read_shards(directory, log), log, filters)
    if not clips:
        raise DataError(f"nothing of {spec} can be used: {commonest(log.dropped[n_before:])}")
    return clips
