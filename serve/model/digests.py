"""Check the files of a finished directory against its record: their sizes, and their SHA-256.

A record is a JSON file in the directory with `sizes_bytes`, and `sha256_of` for the same files. One from a
version without hashes gets them when it is first met. A hash takes a second for two gigabytes, so a process
checks a file once, and again if the file has changed since.
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

SIZES, HASHES = "sizes_bytes", "sha256_of"

_checked: dict[tuple[str, int, int, int], str] = {}

_log = structlog.get_logger(__name__)


def described(directory: Path) -> dict[str, dict[str, Any]]:
    """Return sizes and hashes of a directory's files, as a record has them."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return {
        SIZES: {file.name: file.stat().st_size for file in files},
        HASHES: dict(zip([file.name for file in files], _hashes(files), strict=True)),
    }


def is_as_recorded(record: Path) -> bool:
    """Tell whether the files beside a record are those that it describes; log a damaged one.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: There is no record, or a foreign one.
    """
    content = json.loads(record.read_bytes())
    sizes: dict[str, int] = content[SIZES]
    files = [record.parent / name for name in sizes]
    if any(file.stat().st_size != n_bytes for file, n_bytes in zip(files, sizes.values(), strict=True)):
        return False
    found = dict(zip(sizes, _hashes(files), strict=True))
    if HASHES not in content:
        with suppress(OSError):  # a read-only directory stays without
            text = json.dumps({**content, HASHES: found}, ensure_ascii=False, indent=2)
            write_whole(record, f"{text}\n".encode())
        return True
    damaged = [name for name in sizes if content[HASHES].get(name) != found[name]]
    if damaged:
        _log.warning("files.damaged", path=str(record.parent), files=damaged)
    return not damaged


def _hashes(files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:  # hashing leaves other threads alone
        return list(pool.map(_hash, files))


def _hash(file: Path) -> str:
    state = file.stat()
    key = (str(file.resolve()), state.st_size, state.st_mtime_ns, state.st_ino)
    if key not in _checked:
        with file.open("rb") as content:
            _checked[key] = hashlib.file_digest(content, "sha256").hexdigest()
    return _checked[key]
