"""Move an exported directory into place, readable by all users who may enter it. Loads no model."""

from __future__ import annotations

from pathlib import Path

from serve.model.artifact import MANIFEST
from serve.model.durable_write import put_in_place
from serve.model.junk import is_junk
from train.errors import ExportError


def replace_directory(source: Path, target: Path) -> None:
    """Move `source` to `target`, replacing it if it exists, and make its files readable by all.

    safetensors writes files readable by their owner only, but a container may serve them as another user.
    """
    for file in source.rglob("*"):
        if file.is_file():
            file.chmod(file.stat().st_mode | 0o044)
    put_in_place(source, target)


def check_publishable(target: Path) -> None:
    """Refuse to publish over anything but an artifact, since what lies at `target` is deleted.

    Raises:
        ExportError: The target is a file, or a directory that holds something else.
    """
    if not target.exists() or (target / MANIFEST).is_file():
        return
    if not target.is_dir():
        raise ExportError(f"publish_to {target} is a file: name a directory")
    if any(not is_junk(each) for each in target.iterdir()):
        raise ExportError(
            f"publish_to {target} holds something other than an artifact, which publishing would delete: name"
            " a new directory, also within it, or one that holds an artifact"
        )
