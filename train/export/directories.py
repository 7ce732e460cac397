"""Put an exported directory in place, readable by whoever may enter it."""

from __future__ import annotations

from pathlib import Path

from serve.model.durable_write import put_in_place


def replace_directory(source: Path, target: Path) -> None:
    """Move `source` to `target`, which may exist, and let everybody read its files.

    safetensors writes files for their owner alone; what one user exports, another serves in a container.
    """
    for file in source.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | 0o044)
    put_in_place(source, target)
