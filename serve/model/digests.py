"""Check the files of a finished directory against its record: their sizes, and their SHA-256.

A record is a JSON file in the directory with `sizes_bytes`, and `sha256_of` for the same files. One from a
version without hashes gets them when it is first met. A hash takes a second for two gigabytes, so a process
checks a file once, and again if the file has changed since. Files that a start seldom loads are not even read
again by the next process while nobody has written to them: the record also keeps their times and inode.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from serve.model.durable_write import write_whole

SIZES, HASHES, STATES = "sizes_bytes", "sha256_of", "when_checked"

_checked: dict[tuple[int, ...], str] = {}

_log = structlog.get_logger(__name__)


def described(directory: Path) -> dict[str, dict[str, Any]]:
    """Return sizes and hashes of a directory's files, as a record has them."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return {
        SIZES: {file.name: file.stat().st_size for file in files},
        HASHES: dict(zip([file.name for file in files], _hashes(files), strict=True)),
    }


def is_as_recorded(record: Path, *, trust_unwritten: bool = False) -> bool:
    """Tell whether the files beside a record are those that it describes; log a damaged one.

    Args:
        trust_unwritten: Do not read files that have been checked and not written to since.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: There is no record, or a foreign one.
    """
    content = json.loads(record.read_bytes())
    sizes: dict[str, int] = content[SIZES]
    files = [record.parent / name for name in sizes]
    if any(file.stat().st_size != n_bytes for file, n_bytes in zip(files, sizes.values(), strict=True)):
        return False
    states = {file.name: _state(file) for file in files}
    if trust_unwritten and HASHES in content and content.get(STATES) == states:
        return True
    found = dict(zip(sizes, _hashes(files), strict=True))
    wanted = content.get(HASHES, found)
    damaged = [name for name in sizes if wanted.get(name) != found[name]]
    if damaged:
        _log.warning("files.damaged", path=str(record.parent), files=damaged)
        return False
    if HASHES not in content or trust_unwritten:
        with suppress(OSError):  # a read-only directory stays as it is
            checked = {**content, HASHES: found, **({STATES: states} if trust_unwritten else {})}
            write_whole(record, f"{json.dumps(checked, ensure_ascii=False, indent=2)}\n".encode())
    return True


def _state(file: Path) -> list[int]:
    """Return what changes when anybody writes to a file: the second cannot be set to a chosen time."""
    state = file.stat()
    return [state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _hashes(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:  # hashing leaves other threads alone
        return list(pool.map(_hash, files))


def _hash(file: Path) -> str:
    state = file.stat()
    key = (state.st_dev, state.st_size, *_state(file))
    digest = _checked.get(key)
    if digest is None:
        with file.open("rb") as content:
            digest = _checked[key] = hashlib.file_digest(content, "sha256").hexdigest()
    return digest
