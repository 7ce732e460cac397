"""Find the recordings of a corpus: folder, pattern, manifest or URL -> paths and sizes. Opens none."""

from __future__ import annotations

import glob
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from serve.errors import ConfigError
from serve.transcribe.batch.stores import SCHEME, read_url, refuse, storage_of
from serve.transcribe.files import find_files, is_recording_name

MANIFEST_SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Found:
    """A recording of the corpus."""

    path: str
    """Absolute path, or URL."""
    n_bytes: int | None
    """None where the file cannot be asked: its reading will say why."""
    stamp: str
    """What changes when the file is written: its time, or its storage's tag."""


class ManifestLine(msgspec.Struct, frozen=True):
    """A line of a manifest. Further fields, such as those of training, are passed over."""

    audio: str
    """Absolute path, URL, or path relative to the manifest."""


def find_recordings(where: str) -> list[Found]:
    """Return the recordings of a folder, a pattern, a manifest (`.jsonl`) or a URL, each once, by path.

    Raises:
        ConfigError: There are none, or the manifest cannot be read.
        StorageError: The storage does not answer.
    """
    if where.endswith(MANIFEST_SUFFIX):
        named = dict.fromkeys(_named_in_manifest(where))
        found = [_found_by_url(path) if SCHEME in path else _found_on_disk(path) for path in named]
    elif SCHEME in where:
        found = _found_below_url(where)
    else:
        files, problems = find_files([where])
        if problems:
            raise ConfigError([f"{problem.name}: {problem.sentence}" for problem in problems])
        found = [_found_on_disk(str(file.path.absolute())) for file in files]
    if not found:
        raise ConfigError([f"{where}: holds no recordings"])
    return sorted(found, key=lambda each: each.path)


def _named_in_manifest(where: str) -> Iterator[str]:
    """Yield the paths that a manifest names.

    Raises:
        ConfigError: It cannot be read; the message has the line.
    """
    try:
        content = read_url(where) if SCHEME in where else Path(where).read_bytes()
    except OSError as error:
        raise ConfigError([f"{where}: {error.strerror or error}".lower()]) from error
    folder = where.rpartition("/")[0] if SCHEME in where else str(Path(where).absolute().parent)
    scheme, _, root = folder.rpartition(SCHEME)
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            name = msgspec.json.decode(line, type=ManifestLine).audio
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError([f"{where}, line {number}: {error}"]) from error
        path = posixpath.normpath(posixpath.join(root, name))
        is_here = not scheme or name.startswith("/")
        yield name if SCHEME in name else path if is_here else f"{scheme}{SCHEME}{path}"


def _found_on_disk(path: str) -> Found:
    try:
        state = Path(path).stat()
    except OSError:
        return Found(path, None, "")
    return Found(path, state.st_size, str(state.st_mtime_ns))


def _found_by_url(url: str) -> Found:
    storage, path = storage_of(url)
    try:
        return _found_in_storage(url, storage.info(path))
    except (FileNotFoundError, PermissionError):
        return Found(url, None, "")
    except Exception as error:
        refuse(url, error)


def _found_below_url(url: str) -> list[Found]:
    """Return the recordings below a URL, or those that it matches as a pattern."""
    storage, path = storage_of(url)
    try:
        if glob.has_magic(path):
            found: dict[str, dict[str, Any]] = storage.glob(path, detail=True)
        else:
            found = storage.find(path, detail=True)
    except Exception as error:
        refuse(url, error)
    return [
        _found_in_storage(storage.unstrip_protocol(each), info)
        for each, info in found.items()
        if info.get("type") == "file" and is_recording_name(PurePosixPath(each))
    ]


def _found_in_storage(url: str, info: dict[str, Any]) -> Found:
    stamp = next((str(info[key]) for key in ("ETag", "mtime", "LastModified") if info.get(key)), "")
    return Found(url, int(info["size"]), stamp)
