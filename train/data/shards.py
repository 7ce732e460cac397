"""Shards: tar files of FLAC clips with an index, for reading in order or by one seek per clip.

A directory of shards holds `shard-00000.tar`, ... in WebDataset's layout (`000000000.flac` and
`000000000.json` for each clip), `index.jsonl` with a line for each clip, and `index.json` with sizes and
checksums, which is written last. The same clips give the same bytes. Knows no source.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from serve.config.progress import progress_bar
from serve.model.durable_write import put_in_place
from train.data.filters import DropLog, Reason, read_drops
from train.data.manifest import Clip
from train.data.records import Record, SpokenText, row_language, voice_kind
from train.errors import DataError

HEADER = "index.json"
INDEX = "index.jsonl"
DROPPED = "dropped.jsonl"
SCHEMA_VERSION = 1


class Entry(SpokenText, frozen=True, kw_only=True):
    """One clip of a shard: a line of `index.jsonl` and, without its location, the JSON beside the FLAC."""

    shard: str
    offset_bytes: int
    """Offset of the FLAC in the shard."""
    size_bytes: int
    duration_s: float
    origin: str
    """`FILE:LINE` of the source."""
    kind: str | None = None
    """One of `VOICE_KINDS`; None where neither row nor source tells."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One tar file, as `index.json` lists it."""

    name: str
    size_bytes: int
    sha256: str
    clips: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """`index.json`: the directory's contents, and how they were made."""

    schema_version: int
    settings: dict[str, Any]
    clips: int
    audio_s: float
    dropped: dict[str, int]
    index_sha256: str
    shards: list[Shard]


class ShardWriter:
    """Writes one tar file, which gets its final name once complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._file = self._part.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.entries: list[Entry] = []

    @property
    def size_bytes(self) -> int:
        return self._tar.offset

    def add(self, number: int, flac: bytes, duration_s: float, record: Record) -> None:
        """Append a clip.

        Args:
            number: Number of the clip in the corpus, which names its files.
        """
        entry = Entry(
            **record.carried(),
            shard=self.path.name,
            offset_bytes=self.size_bytes + tarfile.BLOCKSIZE,  # after the file's tar header
            size_bytes=len(flac),
            duration_s=duration_s,
            origin=record.origin,
            kind=None if record.kind == "unknown" else record.kind,
        )
        self._append(f"{number:09d}.flac", flac)
        said = {key: value for key, value in msgspec.to_builtins(entry).items() if key not in _PLACE}
        self._append(f"{number:09d}.json", json.dumps(said, ensure_ascii=False).encode())
        self.entries.append(entry)

    def close(self) -> Shard:
        """Finish the file, give it its final name, and return its description."""
        self._tar.close()
        self._file.close()
        shard = Shard(
            name=self.path.name,
            size_bytes=self._part.stat().st_size,
            sha256=file_sha256(self._part),
            clips=len(self.entries),
        )
        put_in_place(self._part, self.path)
        return shard

    def abandon(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _append(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # time, owner and group are 0, so bytes depend on the clips alone
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))


def index_lines(entries: Iterable[Entry]) -> bytes:
    """Return entries as the content of `index.jsonl`."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def read_header(directory: Path) -> Header:
    """Return `index.json` of a directory of shards.

    Raises:
        DataError: The file is missing or invalid.
    """
    path = directory / HEADER
    try:
        header = msgspec.json.decode(path.read_bytes(), type=Header)
    except FileNotFoundError as error:
        raise DataError(
            f"{directory} holds no shards, or their preparation was not finished: {HEADER} is missing"
        ) from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if header.schema_version != SCHEMA_VERSION:
        raise DataError(f"{path} has version {header.schema_version}; this program reads {SCHEMA_VERSION}")
    return header


def read_shards(directory: Path, log: DropLog) -> list[Clip]:
    """Return the clips of a directory of shards, in order; clips of missing or damaged shards go to `log`.

    Rows that the preparation dropped are added to the log, so that the reasons are reported again.

    Raises:
        DataError: The index cannot be read, or the log is strict and a clip is missing.
    """
    header = read_header(directory)
    faults = {shard.name: fault for shard in header.shards if (fault := _size_fault(directory, shard))}
    if (directory / DROPPED).is_file():
        for drop in read_drops((directory / DROPPED).read_text(encoding="utf-8")):
            log.drop(drop.reason, drop.origin, drop.detail)
    clips = []
    index = directory / INDEX
    try:
        lines = index.read_bytes().splitlines()
        entries = [msgspec.json.decode(line, type=Entry) for line in lines]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{index} cannot be read: {error}") from error
    for number, entry in enumerate(entries, 1):
        origin = f"{index}:{number}"
        if entry.shard in faults:
            log.drop(Reason.MISSING, origin, faults[entry.shard])
            continue
        try:
            language = row_language(entry.language)
        except DataError as error:
            log.drop(Reason.MALFORMED, origin, str(error))
            continue
        clips.append(
            Clip(
                # The shard holds exactly the clip.
                **{**entry.carried(), "start_s": 0.0, "language": language},
                path=directory / entry.shard,
                duration_s=entry.duration_s,
                origin=origin,
                offset_bytes=entry.offset_bytes,
                size_bytes=entry.size_bytes,
                kind=voice_kind(entry.kind, entry.voice, entry.text),
            )
        )
    return clips


def verify_shards(directory: Path) -> Header:
    """Check every file of a directory of shards by its checksum, and return the header.

    Raises:
        DataError: Files are missing or damaged; the error lists all of them.
    """
    header = read_header(directory)
    wanted = [(INDEX, header.index_sha256), *((shard.name, shard.sha256) for shard in header.shards)]
    faults = []
    with progress_bar("verifying", len(wanted), "files") as advance:
        for name, sha256 in wanted:
            path = directory / name
            found = file_sha256(path) if path.is_file() else None
            if found is None:
                faults.append(f"{path} is missing")
            elif found != sha256:
                faults.append(
                    f"{path} is damaged: its sha256 is {found[:16]}..., {HEADER} says {sha256[:16]}..."
                )
            advance()
    if faults:
        raise DataError("\n".join([*faults, "copy these files again, or prepare the source again"]))
    return header


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PLACE = {"shard", "offset_bytes", "size_bytes"}


def _size_fault(directory: Path, shard: Shard) -> str | None:
    path = directory / shard.name
    if not path.is_file():
        return f"{path} does not exist"
    size_bytes = path.stat().st_size
    if size_bytes != shard.size_bytes:
        return f"{path} holds {size_bytes} bytes; {HEADER} says {shard.size_bytes}"
    return None
