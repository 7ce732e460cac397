"""Decode a source once, in parallel, and write it as shards; resume an interrupted preparation.

Rows are taken in the source's order, so the shards depend on the source and the settings alone: their bytes
are the same however often the work was interrupted. `.progress/` holds the rows of finished shards until all
are finished.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import soundfile
import torch
from filelock import FileLock

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.config.progress import progress_bar
from serve.errors import AudioError, AudioTooLong
from serve.model.durable_write import write_whole
from train.data.filters import MAX_CLIP_S, MIN_CLIP_S, Drop, DropLog, Filters, Reason, commonest, write_drops
from train.data.manifest import MOST_MISSING_S
from train.data.records import Record
from train.data.shards import (
    DROPPED,
    HEADER,
    INDEX,
    SCHEMA_VERSION,
    Entry,
    Header,
    Shard,
    ShardWriter,
    file_sha256,
    index_lines,
    read_header,
)
from train.data.sources import count_records, read_source, source_fingerprint
from train.data.specs import Purpose, SourceSpec
from train.errors import DataError

_PROGRESS = ".progress"
_AHEAD = 4  # clips decoded ahead of the writer, per worker


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What to prepare, and how."""

    spec: SourceSpec
    purpose: Purpose = "train"
    language: str = "mr"
    filters: Filters = field(
        default_factory=lambda: Filters(min_duration_s=MIN_CLIP_S, max_duration_s=MAX_CLIP_S)
    )
    shard_bytes: int = 150_000_000
    """Size at which a shard is closed."""
    workers: int = 1
    strict: bool = False

    @property
    def untranscribed(self) -> bool:
        """Whether a recording needs no transcript; one that is scored without a reference would mislead."""
        return self.filters.silent and self.purpose == "train"

    def settings(self) -> dict[str, Any]:
        """Return everything that the shards' bytes depend on."""
        held_out = sorted([*self.filters.held_out.sentences, *self.filters.held_out.voices])
        return {
            "source": str(self.spec),
            "purpose": self.purpose,
            "language": self.language,
            "script_of": self.filters.language,
            "silent": self.filters.silent,
            "min_duration_s": self.filters.min_duration_s,
            "max_duration_s": min(self.filters.max_duration_s, AudioLimits().max_audio_s),
            "held_out": hashlib.sha256("\n".join(held_out).encode()).hexdigest() if held_out else None,
            "shard_bytes": self.shard_bytes,
            "fingerprint": source_fingerprint(self.spec, self.purpose, self.language),
        }


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A finished shard, as `.progress/` records it."""

    shard: Shard
    n_records: int
    """Records of the source consumed up to the shard's end."""
    entries: list[Entry]
    dropped: list[Drop]
    """Records whose audio could not be used."""


def prepare_source(preparation: Preparation, output_dir: Path) -> Header:
    """Write a source as shards into `output_dir`, resuming earlier work, and return their header.

    Raises:
        DataError: The source cannot be read, no clip is usable, the directory holds something else, or, with
            `strict`, a row is bad.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(output_dir / ".lock"):  # a second process waits, and then finds the work done
        settings = preparation.settings()
        if (output_dir / HEADER).is_file():
            header = read_header(output_dir)
            _refuse_other(header.settings, settings, output_dir)
            return header
        progress = output_dir / _PROGRESS
        _begin(progress, settings, output_dir)
        log = DropLog(strict=preparation.strict)
        writer = _PartWriter(output_dir, preparation.shard_bytes, _finished_parts(output_dir))
        with _one_thread():
            _write_clips(preparation, writer, log)
        _decode_file.cache_clear()
        return _finish(output_dir, settings, writer, log)


def _refuse_other(there: dict[str, Any], wanted: dict[str, Any], output_dir: Path) -> None:
    if differing := [name for name in wanted if there.get(name) != wanted[name]]:
        name = differing[0]
        what = "the source has changed" if name == "fingerprint" else f"{name} is {there.get(name)} there"
        raise DataError(
            f"{output_dir} holds another preparation ({what}): choose another directory, or remove this one"
        )


def _begin(progress: Path, settings: dict[str, Any], output_dir: Path) -> None:
    path = progress / "settings.json"
    if path.is_file():
        _refuse_other(msgspec.json.decode(path.read_bytes()), settings, output_dir)
        return
    if any(output_dir.glob("shard-*.tar")):
        raise DataError(
            f"{output_dir} holds shards that this program did not begin: choose another directory"
        )
    progress.mkdir(exist_ok=True)
    write_whole(path, msgspec.json.encode(settings))


def _finished_parts(output_dir: Path) -> list[_Part]:
    """Return the complete shards, up to the first incomplete one."""
    parts: list[_Part] = []
    while (path := output_dir / _PROGRESS / f"{len(parts):05d}.json").is_file():
        part = msgspec.json.decode(path.read_bytes(), type=_Part)
        shard = output_dir / part.shard.name
        if not shard.is_file() or shard.stat().st_size != part.shard.size_bytes:
            break
        parts.append(part)
    return parts


class _PartWriter:
    """Writes clips into one shard after another, and records each finished shard in `.progress/`."""

    def __init__(self, output_dir: Path, shard_bytes: int, done: list[_Part]) -> None:
        self.parts = done
        self.dropped: list[Drop] = []
        """Records dropped since the last finished shard."""
        self.n_records = done[-1].n_records if done else 0
        self.n_clips = sum(part.shard.clips for part in done)
        self.audio_s = sum(entry.duration_s for part in done for entry in part.entries)
        self._output_dir = output_dir
        self._shard_bytes = shard_bytes
        self._shard: ShardWriter | None = None

    def take(self, record: Record, outcome: _Outcome) -> None:
        """Store the outcome of the next record: its FLAC, or why it was dropped."""
        self.n_records += 1
        if isinstance(outcome, Drop):
            self.dropped.append(outcome)
            return
        if self._shard is None:
            self._shard = ShardWriter(self._output_dir / f"shard-{len(self.parts):05d}.tar")
        duration_s = outcome.n_samples / SAMPLE_RATE
        self._shard.add(self.n_clips, outcome.flac, duration_s, record)
        self.n_clips += 1
        self.audio_s += duration_s
        if self._shard.size_bytes >= self._shard_bytes:
            self.close()

    def close(self) -> None:
        """Finish the open shard, if any."""
        if self._shard is None:
            return
        shard = self._shard.close()
        part = _Part(shard=shard, n_records=self.n_records, entries=self._shard.entries, dropped=self.dropped)
        write_whole(self._output_dir / _PROGRESS / f"{len(self.parts):05d}.json", msgspec.json.encode(part))
        self.parts.append(part)
        self._shard, self.dropped = None, []

    def abandon(self) -> None:
        """Discard the open shard, if any."""
        if self._shard is not None:
            self._shard.abandon()


def _write_clips(preparation: Preparation, writer: _PartWriter, log: DropLog) -> None:
    """Write the clips that are in no finished shard; `log` gets the rows that fail before decoding."""
    spec, purpose, language = preparation.spec, preparation.purpose, preparation.language
    total = count_records(spec, purpose, language, untranscribed=preparation.untranscribed)
    records = itertools.islice(_usable(preparation, log), writer.n_records, None)
    try:
        with (
            closing(_encoded(records, preparation)) as clips,
            progress_bar(f"preparing {spec.name}", total, "clips") as advance,
        ):
            advance(writer.n_records)
            for record, outcome in clips:
                if preparation.strict and isinstance(outcome, Drop):
                    raise DataError(f"{outcome.origin}: {outcome.detail}")
                writer.take(record, outcome)
                advance(note=f"{writer.audio_s / 3600:.2f} h")
        writer.close()
    finally:
        writer.abandon()


def _usable(preparation: Preparation, log: DropLog) -> Iterator[Record]:
    """Yield the records whose text and voice pass the filters, always the same ones."""
    spec, purpose, filters = preparation.spec, preparation.purpose, preparation.filters
    for record in read_source(
        spec, purpose, preparation.language, log, untranscribed=preparation.untranscribed
    ):
        if fault := filters.text_fault(record.text, record.language, record.voice):
            log.drop(fault[0], record.origin, fault[1])
        else:
            yield record


class _Encoded(NamedTuple):
    flac: bytes
    n_samples: int


_Outcome = _Encoded | Drop


def _encoded(
    records: Iterator[Record], preparation: Preparation
) -> Generator[tuple[Record, _Outcome], None, None]:
    """Yield each record with its outcome, in order, encoding ahead in threads.

    Threads suffice, because decoding, resampling and encoding release Python's lock.
    """
    waiting: deque[tuple[Record, Future[_Outcome]]] = deque()
    with ThreadPoolExecutor(preparation.workers, thread_name_prefix="prepare") as pool:
        try:
            for record in records:
                waiting.append((record, pool.submit(_encode, record, preparation.filters)))
                if len(waiting) >= _AHEAD * preparation.workers:
                    record, future = waiting.popleft()
                    yield record, future.result()
            for record, future in waiting:
                yield record, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encode(record: Record, filters: Filters) -> _Outcome:
    """Return a clip as FLAC at 16 kHz, or why it is dropped."""

    def drop(reason: Reason, detail: str) -> Drop:
        return Drop(reason=reason, origin=record.origin, detail=detail)

    named = f"{record.audio} " if isinstance(record.audio, Path) else ""
    try:
        samples = _decode(record, filters.max_duration_s)
    except FileNotFoundError:
        return drop(Reason.MISSING, f"{named}does not exist")
    except AudioTooLong as error:
        return drop(Reason.TOO_LONG, f"{named}{error}")
    except (AudioError, OSError) as error:
        return drop(Reason.UNDECODABLE, f"{named}cannot be decoded: {error}")
    start, n_wanted = 0, len(samples)
    if _is_stretch(record):
        end_s = record.end_s if record.end_s is not None else len(samples) / SAMPLE_RATE
        if not 0 <= record.start_s < end_s:
            return drop(Reason.BAD_TIMES, f"start_s {record.start_s} does not lie before the end, {end_s}")
        start, n_wanted = round(record.start_s * SAMPLE_RATE), round((end_s - record.start_s) * SAMPLE_RATE)
    clip = samples[start : start + n_wanted]
    if len(clip) < n_wanted - MOST_MISSING_S * SAMPLE_RATE:
        return drop(
            Reason.UNDECODABLE,
            f"{named}is cut off: it ends after {len(samples) / SAMPLE_RATE:.2f} s, the clip"
            f" after {(start + n_wanted) / SAMPLE_RATE:.2f} s",
        )
    if fault := filters.duration_fault(len(clip) / SAMPLE_RATE):
        return drop(*fault)
    flac = io.BytesIO()
    soundfile.write(flac, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return _Encoded(flac.getvalue(), len(clip))


def _decode(record: Record, max_duration_s: float) -> Samples:
    """Decode the whole recording; recent files are cached, since several clips may come from one."""
    if _is_stretch(record):
        if isinstance(record.audio, Path):
            return _decode_file(record.audio)
        return decode_audio(record.audio, AudioLimits())
    data = record.audio.read_bytes() if isinstance(record.audio, Path) else record.audio
    return decode_audio(data, AudioLimits(max_audio_s=min(max_duration_s, AudioLimits().max_audio_s)))


@lru_cache(maxsize=2)
def _decode_file(path: Path) -> Samples:
    return decode_audio(path.read_bytes(), AudioLimits())


def _is_stretch(record: Record) -> bool:
    return record.start_s != 0 or record.end_s is not None


def _finish(output_dir: Path, settings: dict[str, Any], writer: _PartWriter, log: DropLog) -> Header:
    """Write the index and then the header, and delete the progress."""
    for drop in [drop for part in writer.parts for drop in part.dropped] + writer.dropped:
        log.drop(drop.reason, drop.origin, drop.detail)
    if not writer.n_clips:
        raise DataError(f"no clip of {settings['source']} can be used: {commonest(log.dropped)}")
    write_whole(output_dir / DROPPED, write_drops(log.dropped).encode())
    write_whole(output_dir / INDEX, index_lines(entry for part in writer.parts for entry in part.entries))
    header = Header(
        schema_version=SCHEMA_VERSION,
        settings=settings,
        clips=writer.n_clips,
        audio_s=round(writer.audio_s, 3),
        dropped=log.counts,
        index_sha256=file_sha256(output_dir / INDEX),
        shards=[part.shard for part in writer.parts],
    )
    write_whole(output_dir / HEADER, msgspec.json.format(msgspec.json.encode(header), indent=1) + b"\n")
    shutil.rmtree(output_dir / _PROGRESS)
    return header


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, since each worker resamples in its own."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
