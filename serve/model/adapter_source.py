"""Decide where adapters may be loaded from, and check one before it is loaded. Loads no model.

The checks cover its location, its manifest, its base model, and its tensors (`serve.model.adapter_tensors`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from serve.errors import ArtifactError, BadAdapter, UnknownPath
from serve.model.artifact import Artifact, Told, find_root
from serve.model.foreign import read_artifact

_DIRECTORIES = re.compile(r"(?<![\w.:/])/(?:[^\s/:;'\"]+/)+")


def find_source(source: str, roots: Iterable[Path]) -> Path:
    """Return the directory that `source` names, symlinks resolved.

    Raises:
        UnknownPath: It does not exist, or lies outside of `roots`; the message does not say which.
    """
    refusal = UnknownPath("src is not a directory that adapters may be loaded from")
    if "\0" in source or not source.strip():
        raise refusal
    try:
        path = Path(source.removeprefix("file://")).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal from error
    if not path.is_dir() or not is_below(path, roots):
        raise refusal
    return path


def read_adapter(
    path: Path, roots: Iterable[Path], base_dir: Path, fingerprint: str, told: Told | None = None
) -> Artifact:
    """Return the checked artifact in a directory; see `serve.model.foreign` for what others made.

    Args:
        path: Directory that `find_source` returned.
        roots: Directories that its files must lie in.
        base_dir: Checkpoint of the base model.
        fingerprint: `base_fingerprint` of the base model.
        told: Facts about a model without a manifest.

    Raises:
        BadAdapter: A file is missing, damaged, outside the roots, or does not fit the base model.
    """
    check_links(path, roots)
    try:
        return read_artifact(find_root(path), base_dir, fingerprint, told or Told())
    except ArtifactError as error:
        raise BadAdapter(_relative(error, path)) from error


def check_links(path: Path, roots: Iterable[Path]) -> None:
    """Refuse a directory with symlinks that lead out of the roots, directly or through other directories.

    Raises:
        BadAdapter: Names the link.
    """
    roots = list(roots)
    directories = [path]
    for directory in directories:  # grows as links lead to further directories
        for link in (file for file in directory.rglob("*") if file.is_symlink()):
            target = link.resolve()
            if not is_below(target, roots):
                raise BadAdapter(
                    f"{link.relative_to(directory)}: leads out of the directories that may be loaded from"
                )
            if target.is_dir() and target not in directories:
                directories.append(target)


def is_below(path: Path, roots: Iterable[Path]) -> bool:
    """Tell whether a path, its links resolved, lies in one of the roots."""
    return any(path.is_relative_to(root.resolve()) for root in roots)


def without_directories(text: str) -> str:
    """Return a message with absolute paths cut to their last names: clients need not know the rest."""
    return _DIRECTORIES.sub("", text)


def _relative(error: ArtifactError, path: Path) -> str:
    """Return an error's message without directories, but with those below `path`."""
    return without_directories(str(error).replace(f"{path}/", ""))
