"""Move an exported directory into place, readable by all users who may enter it."""

from __future__ import annotations

from pathlib import Path

from serve.model.durable_write import put_in_place


def replace_directory(source: Path, target: Path) -> None:
    """Move `source` to `target`, replacing it if it exists, and make its files readable by all.

    safetensors writes files readable by their owner only, but a container may serve them as another user.
    """
    for file in source.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | 0o044)
    put_in_place(source, target)
