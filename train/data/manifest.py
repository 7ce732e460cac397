"""Read JSONL manifests, one clip per line: `{"audio", "text", "start_s"?, "language"?, "kind"?, ...}`.

A bad line is reported by file and line, and dropped unless the log is strict. Also loads the audio of a clip
from a file or a shard. Knows no model.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import soundfile

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.errors import AudioError
from train.data.filters import DropLog, Filters, Reason, commonest
from train.data.records import (
    Record,
    SpokenText,
    VoiceKind,
    read_lines,
    row_language,
    transcript,
    voice_kind,
)
from train.errors import DataError

MOST_MISSING_S = 0.25
"""Most that a clip may lack of its declared duration, since lossy formats are a frame or two off."""


class Row(SpokenText, frozen=True, kw_only=True):
    """One manifest line."""

    audio: str
    """Absolute path, or relative to the manifest's directory."""
    end_s: float | None = None
    duration_s: float | None = None
    kind: str | None = None
    """Kind of voice, one of `VOICE_KINDS`."""
    source: str | None = None


class Clip(SpokenText, frozen=True, kw_only=True):
    """A checked row: where its audio lies, and how long it is."""

    path: Path
    """The recording, or the shard that holds it."""
    duration_s: float
    origin: str
    """`FILE:LINE` of the manifest, for messages."""
    offset_bytes: int = 0
    """Offset of the recording in `path`."""
    size_bytes: int | None = None
    """Size of the recording in a shard; None where `path` is the recording."""
    kind: VoiceKind = "unknown"
    """Kind of voice."""
    source: str = ""
    """Name of its source, for tables."""
    weight: float = 1.0
    """How often the clip is heard in an epoch of training."""
    augment: float = 1.0
    """Probability that training may change how it sounds."""


def read_records(path: Path, log: DropLog) -> Iterator[Record]:
    """Yield the rows of a manifest in order; malformed lines go to `log`.

    Raises:
        DataError: The file cannot be read, or the log is strict and a line is bad.
    """
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        origin = f"{path}:{number}"
        if not line.strip():
            log.drop(Reason.EMPTY_LINE, origin, "the line is empty")
            continue
        try:
            row = msgspec.json.decode(line.encode("utf-8", errors="surrogateescape"), type=Row)
            language = row_language(row.language)
        except (msgspec.DecodeError, UnicodeDecodeError, DataError) as error:
            log.drop(Reason.MALFORMED, origin, str(error))
            continue
        end_s = row.end_s
        if end_s is None and row.duration_s is not None:
            end_s = row.start_s + row.duration_s
        said = {**row.carried(), "text": transcript(row.text), "language": language}
        yield Record(
            **said,
            audio=path.parent / row.audio,
            origin=origin,
            end_s=end_s,
            kind=voice_kind(row.kind, row.voice, said["text"]),
            source=row.source,
        )


def read_manifest(path: Path, log: DropLog | None = None, filters: Filters | None = None) -> list[Clip]:
    """Return the clips of a manifest, in order.

    Args:
        log: Collects bad lines; by default the first one raises an error.
        filters: Requirements on clips; by default everything passes, empty texts included.

    Raises:
        DataError: No line is good, or the log is strict and a line is bad.
    """
    log = log if log is not None else DropLog(strict=True)
    n_before = len(log)
    clips = list(_checked(read_records(path, log), log, filters or Filters(silent=True)))
    if not clips:
        raise DataError(f"manifest {path} holds no clips to use: {commonest(log.dropped[n_before:])}")
    return clips


def filter_clips(clips: Iterable[Clip], log: DropLog, filters: Filters) -> list[Clip]:
    """Return the clips that pass the filters; the others go to `log`."""
    kept = []
    for clip in clips:
        fault = filters.text_fault(clip.text, clip.language, clip.voice) or filters.duration_fault(
            clip.duration_s
        )
        if fault:
            log.drop(fault[0], clip.origin, fault[1])
        else:
            kept.append(clip)
    return kept


def read_audio(clip: Clip) -> bytes:
    """Return the bytes of the recording that holds the clip.

    Raises:
        OSError: The file cannot be read.
    """
    if clip.size_bytes is None:
        return clip.path.read_bytes()
    with clip.path.open("rb") as shard:
        shard.seek(clip.offset_bytes)
        return shard.read(clip.size_bytes)


def load_samples(clip: Clip) -> Samples:
    """Return the clip as samples (n_samples,) at 16 kHz mono.

    Raises:
        DataError: The audio cannot be decoded, or ends before the clip does.
    """
    start, n_samples = round(clip.start_s * SAMPLE_RATE), round(clip.duration_s * SAMPLE_RATE)
    try:
        if clip.size_bytes is not None:  # a shard holds exactly the clip, as FLAC at 16 kHz
            samples, _ = soundfile.read(io.BytesIO(read_audio(clip)), dtype="float32")
        elif _needs_no_conversion(clip.path):  # read only the clip's part
            samples, _ = soundfile.read(clip.path, frames=n_samples, start=start, dtype="float32")
        else:
            samples = decode_audio(clip.path.read_bytes(), AudioLimits())[start : start + n_samples]
    except (AudioError, OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{clip.origin}: {clip.path} cannot be decoded: {error}") from error
    if not len(samples):
        raise DataError(f"{clip.origin}: {clip.path} ends before {clip.start_s} s, where the clip begins")
    if len(samples) < n_samples - MOST_MISSING_S * SAMPLE_RATE:
        end_s = clip.start_s + len(samples) / SAMPLE_RATE
        raise DataError(
            f"{clip.origin}: {clip.path} is cut off: it ends after {end_s:.2f} s, the clip"
            f" after {clip.start_s + clip.duration_s:.2f} s"
        )
    return np.asarray(samples, dtype=np.float32)


def _checked(records: Iterable[Record], log: DropLog, filters: Filters) -> Iterator[Clip]:
    """Yield a clip for each good record; its audio is opened only if its duration is unknown."""
    for record in records:
        path = Path(str(record.audio))
        if fault := filters.text_fault(record.text, record.language, record.voice):
            log.drop(fault[0], record.origin, fault[1])
            continue
        if not path.is_file():
            log.drop(Reason.MISSING, record.origin, f"{path} does not exist")
            continue
        end_s = record.end_s
        if end_s is None:
            try:
                end_s = _duration_s(path)
            except (AudioError, OSError) as error:
                log.drop(Reason.UNDECODABLE, record.origin, f"{path} cannot be decoded: {error}")
                continue
        if not 0 <= record.start_s < end_s:
            detail = f"start_s {record.start_s} does not lie before the end, {end_s}"
            log.drop(Reason.BAD_TIMES, record.origin, detail)
            continue
        if fault := filters.duration_fault(end_s - record.start_s):
            log.drop(fault[0], record.origin, fault[1])
            continue
        yield Clip(
            **record.carried(),
            path=path,
            duration_s=end_s - record.start_s,
            origin=record.origin,
            kind=record.kind,
        )


def _needs_no_conversion(path: Path) -> bool:
    if path.suffix not in {".flac", ".wav"}:
        return False
    info = soundfile.info(path)
    return bool(info.samplerate == SAMPLE_RATE and info.channels == 1)


def _duration_s(path: Path) -> float:
    data = path.read_bytes()
    try:
        return float(soundfile.info(io.BytesIO(data)).duration)
    except soundfile.LibsndfileError:
        return len(decode_audio(data, AudioLimits())) / SAMPLE_RATE
