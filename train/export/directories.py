"""Replace a directory as a whole: readers meet the old one or the new one, never half of it."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_directory(source: Path, target: Path) -> None:
    """Move `source` to `target`, which may exist, leaving a whole directory there at all but one instant.

    Whoever may enter it may read its files: safetensors writes them for their owner alone, and what is made
    by one user is served by another in a container.
    """
    for file in source.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | 0o044)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    source.replace(target)
    shutil.rmtree(old, ignore_errors=True)
