"""Load the clips of any source: rows of a manifest, or of shards.

Other sources are decoded once, into shards that later runs reuse.
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

    Every clip has a language, and the kind of its voice where its row, its voice or the source tells.

    Args:
        source: Name of a source; see `train.data.specs`.
        purpose: Decides the split where the source names none.
        language: Whisper's language code, used where the source names none.
        log: Collects rows that cannot be used.
        filters: Limits on clips, prepared ones included.
        prepare_dir: Directory for the shards of sources that are neither manifests nor shards.

    Raises:
        DataError: The source cannot be read, no clip passes, or the log is strict and a row is bad.
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
    if spec.kind == "shards":
        directory = Path(spec.location)
    else:
        directory = _prepare(spec, purpose, language, prepare_dir, strict=log.strict, silent=filters.silent)
    n_before = len(log)
    clips = filter_clips(read_shards(directory, log), log, filters)
    if not clips:
        raise DataError(f"no clip of {spec} can be used: {commonest(log.dropped[n_before:])}")
    return clips


def _prepare(
    spec: SourceSpec, purpose: Purpose, language: str, prepare_dir: Path, *, strict: bool, silent: bool
) -> Path:
    """Prepare a source unless that was done before, and return the directory of its shards."""
    unsaid = dataclasses.replace(spec, speakers=None)
    if speakers_of(unsaid) in (None, spec.speakers):  # the shards are the same, whoever is said to speak
        spec = unsaid
    fingerprint = source_fingerprint(spec, purpose, language)
    # Published corpora have texts, so their shards serve those who read the texts and those who do not.
    unread = silent and purpose != "test" and spec.kind in ("folder", "hf")
    named = f"{spec} {purpose} {fingerprint}{' unread' if unread else ''}"
    key = hashlib.sha256(named.encode()).hexdigest()[:8]
    if purpose == "test":
        filters = Filters(silent=True)
    else:
        filters = Filters(min_duration_s=MIN_CLIP_S, max_duration_s=MAX_CLIP_S, silent=unread)
    preparation = Preparation(
        spec=spec,
        purpose=purpose,
        language=language,
        filters=filters,
        workers=os.cpu_count() or 1,
        strict=strict,
    )
    directory = prepare_dir / f"{spec.name}-{key}"
    prepare_source(preparation, directory)
    return directory
