"""Read JSONL manifests, one clip a line: `{"audio", "text", "start_s"?, "end_s"?, "language"?, ...}`.

A bad line is named by file and line. Knows no model.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from serve.audio import AudioLimits, decode_audio
from serve.errors import AudioError
from serve.features import SAMPLE_RATE, Samples
from train.errors import DataError


class Row(msgspec.Struct, kw_only=True):
    """One manifest line."""

    audio: str
    """Path, relative to the manifest's directory or absolute."""
    text: str
    start_s: float = 0.0
    end_s: float | None = None
    language: str | None = None
    duration_s: float | None = None
    voice: str | None = None
    source: str | None = None


class Clip(msgspec.Struct, frozen=True, kw_only=True):
    """A checked row: where its audio lies and how long it is."""

    path: Path
    text: str
    start_s: float
    duration_s: float
    language: str | None
    voice: str | None
    origin: str
    """`FILE:LINE` of the manifest, for messages."""


def read_manifest(path: Path) -> list[Clip]:
    """Return the clips of a manifest, in its order.

    Raises:
        DataError: the first bad line, by file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path} cannot be read: {error}") from error
    clips = [_read_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not clips:
        raise DataError(f"manifest {path} holds no clips")
    return clips


def load_samples(clip: Clip) -> Samples:
    """Return the clip as samples (n_samples,) at 16 kHz mono.

    Raises:
        DataError: the file cannot be decoded.
    """
    start, n_samples = round(clip.start_s * SAMPLE_RATE), round(clip.duration_s * SAMPLE_RATE)
    try:
        if _needs_no_conversion(clip.path):  # read only the clip
            samples, _ = soundfile.read(clip.path, frames=n_samples, start=start, dtype="float32")
        else:
            samples = decode_audio(clip.path.read_bytes(), AudioLimits())[start : start + n_samples]
    except (AudioError, OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{clip.origin}: {clip.path} cannot be decoded: {error}") from error
    if not len(samples):
        raise DataError(f"{clip.origin}: {clip.path} ends before {clip.start_s} s, where the clip begins")
    return np.asarray(samples, dtype=np.float32)


def drop_long_clips(clips: Sequence[Clip], max_duration_s: float) -> tuple[list[Clip], int]:
    """Return the clips that fit one window, and how many did not."""
    kept = [clip for clip in clips if clip.duration_s <= max_duration_s]
    return kept, len(clips) - len(kept)


def _read_row(line: str, manifest: Path, number: int) -> Clip:
    origin = f"{manifest}:{number}"
    try:
        row = msgspec.json.decode(line, type=Row)
    except msgspec.DecodeError as error:
        raise DataError(f"{origin}: {error}") from error
    path = manifest.parent / row.audio
    end_s = row.end_s
    if end_s is None and row.duration_s is not None:
        end_s = row.start_s + row.duration_s
    if not path.is_file():
        raise DataError(f"{origin}: {path} does not exist")
    if end_s is None:
        end_s = _duration_s(path, origin)
    if not 0 <= row.start_s < end_s:
        raise DataError(f"{origin}: start_s {row.start_s} does not lie before the end, {end_s}")
    return Clip(
        path=path,
        text=row.text.strip(),
        start_s=row.start_s,
        duration_s=end_s - row.start_s,
        language=row.language,
        voice=row.voice,
        origin=origin,
    )


def _needs_no_conversion(path: Path) -> bool:
    if path.suffix not in {".flac", ".wav"}:
        return False
    info = soundfile.info(path)
    return bool(info.samplerate == SAMPLE_RATE and info.channels == 1)


def _duration_s(path: Path, origin: str) -> float:
    try:
        return float(soundfile.info(io.BytesIO(path.read_bytes())).duration)
    except soundfile.LibsndfileError:
        try:
            return len(decode_audio(path.read_bytes(), AudioLimits())) / SAMPLE_RATE
        except AudioError as error:
            raise DataError(f"{origin}: {path} cannot be decoded: {error}") from error
