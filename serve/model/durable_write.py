"""Replace files and directories durably: readers see the old or the new one, even after a crash.

Written by hand, because the library for it (atomicwrites) is unmaintained and cannot write directories. Knows
nothing of the content.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import nullcontext, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its parent directories.

    Raises:
        OSError: The file cannot be written; an older file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_bytes(content)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)


def put_in_place(part: Path, target: Path) -> None:
    """Flush a finished file or directory to disk, then rename it to `target` in the same file system.

    A file is replaced in one step. A directory is replaced in two, so for an instant there is none.
    """
    for path in (part, *(part.rglob("*") if part.is_dir() else ())):
        _flush(path)
    if part.is_dir() and target.is_dir():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        part.replace(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # not all file systems flush directories
            os.fsync(handle)
    finally:
        os.close(handle)
