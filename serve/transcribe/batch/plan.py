"""Divide a corpus into shards: groups of recordings of like length that are transcribed and stored as one.

A plan is written before the work begins and never changed, so a shard means the same recordings to every run
and every worker: whoever does it twice writes the same file again. Recordings that come later make a further
plan. Knows no engine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from serve.transcribe.batch.listing import Found
from serve.transcribe.batch.stores import SCHEME, read_url
from serve.transcribe.transcriber import MAX_FILE_BYTES, USUAL_BYTES_PER_S, expected_s

MAX_SHARD_FILES = 512
SHARDS_OF_A_SMALL_CORPUS = 128
SHORTEST_SHARD_S = 60.0
"""A small corpus is divided more finely, so that workers end at about the same time; no shard is shorter."""

READERS = 16
"""Files read at a time to be compared; a storage elsewhere takes long to answer."""


class Name(msgspec.Struct, frozen=True):
    """A path of a recording, and the stamp it had when it was planned."""

    path: str
    stamp: str


class Known(msgspec.Struct, frozen=True):
    """Where the result of the same content is found."""

    shard: str
    path: str


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is decoded once: a recording, under all its names."""

    names: list[Name]
    n_bytes: int = 0
    expected_s: float = 0.0
    """Estimated duration."""
    known: Known | None = None
    """An earlier plan has the same content, and its result."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings whose results are one file."""

    name: str
    contents: list[Content]

    @property
    def n_files(self) -> int:
        """Number of paths; each gets a row, or a line in the quarantine."""
        return sum(len(content.names) for content in self.contents)

    @property
    def expected_s(self) -> float:
        return sum(content.expected_s for content in self.contents)

    @property
    def paths(self) -> list[str]:
        return [name.path for content in self.contents for name in content.names]


ResultHash = Callable[[str, str], str | None]
"""(shard, path) -> the content hash that its row has; None where there is no row."""


def plan_shards(
    found: Sequence[Found],
    number: int,
    earlier: Iterable[Shard],
    result_hash: ResultHash,
    shard_s: float,
) -> list[Shard]:
    """Group new recordings by content, and contents by length, the longest first.

    Args:
        found: Recordings that no earlier plan has.
        number: Number of the plan, which its shards' names begin with.
        earlier: Shards of earlier plans.
        shard_s: Seconds of sound in a shard, at most, unless a single recording is longer.
    """
    with ThreadPoolExecutor(READERS) as threads:
        contents = _grouped(found, earlier, result_hash, threads)
    contents.sort(key=lambda content: (-content.expected_s, content.names[0].path))
    fair_s = sum(content.expected_s for content in contents) / SHARDS_OF_A_SMALL_CORPUS
    shard_s = min(shard_s, max(SHORTEST_SHARD_S, fair_s))
    shards: list[Shard] = []
    group: list[Content] = []
    group_s = 0.0
    for content in contents:
        if group and (group_s + content.expected_s > shard_s or len(group) == MAX_SHARD_FILES):
            shards.append(Shard(name=_name(number, len(shards)), contents=group))
            group, group_s = [], 0.0
        group.append(content)
        group_s += content.expected_s
    return [*shards, Shard(name=_name(number, len(shards)), contents=group)] if group else shards


def encode_plan(shards: Iterable[Shard]) -> bytes:
    """Return a plan's file: a line for each shard."""
    return b"".join(msgspec.json.encode(shard) + b"\n" for shard in shards)


def decode_plan(content: bytes) -> list[Shard]:
    """Return the shards of a plan's file."""
    return [msgspec.json.decode(line, type=Shard) for line in content.splitlines()]


def content_hash(data: bytes) -> str:
    """Return the SHA-256 of a recording's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_recording(path: str) -> bytes:
    """Return a recording's bytes.

    Raises:
        OSError: It cannot be read.
        StorageError: Its storage does not answer.
    """
    return read_url(path) if SCHEME in path else Path(path).read_bytes()


def _name(number: int, index: int) -> str:
    return f"{number:04d}-{index:06d}"


def _grouped(
    found: Sequence[Found], earlier: Iterable[Shard], result_hash: ResultHash, threads: ThreadPoolExecutor
) -> list[Content]:
    """Return the contents; only files that share their size with another are read for it."""
    of_size: dict[int, list[Known]] = defaultdict(list)
    for shard in earlier:
        for content in shard.contents:
            of_size[content.n_bytes].append(Known(shard.name, content.names[0].path))
    alike: dict[int | None, list[Found]] = defaultdict(list)
    for each in found:
        alike[each.n_bytes].append(each)
    compared = [
        each
        for n_bytes, group in alike.items()
        if n_bytes and n_bytes <= MAX_FILE_BYTES and (len(group) > 1 or n_bytes in of_size)
        for each in group
    ]
    hashes = dict(zip([each.path for each in compared], threads.map(_hash, compared), strict=True))
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        groups[hashes.get(each.path) or each.path].append(each)  # a path is never a hash

    def content_of(key: str) -> Content:
        first, *_ = groups[key]
        known = next(
            (place for place in of_size[first.n_bytes or 0] if result_hash(place.shard, place.path) == key),
            None,
        )
        return _content(groups[key], known)

    return list(threads.map(content_of, groups))


def _content(files: Sequence[Found], known: Known | None) -> Content:
    n_bytes = files[0].n_bytes or 0
    length_s = n_bytes / USUAL_BYTES_PER_S
    if known is None and SCHEME not in files[0].path and files[0].n_bytes is not None:
        try:
            length_s = expected_s(Path(files[0].path), n_bytes)
        except OSError:  # its reading will say why
            length_s = 0.0
    return Content(
        names=[Name(each.path, each.stamp) for each in files],
        n_bytes=n_bytes,
        expected_s=0.0 if known else round(length_s, 2),
        known=known,
    )


def _hash(found: Found) -> str | None:
    try:
        return content_hash(read_recording(found.path))
    except OSError:  # its reading will say why
        return None
