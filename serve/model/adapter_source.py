"""Where an adapter may be loaded from, and whether its files can be trusted to fit. Loads no model.

Everything is checked before anything is loaded: the place, the manifest, the base model it was trained on,
and what `serve.model.adapter_tensors` compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serve.errors import ArtifactError, BadAdapter, UnknownPath
from serve.model.artifact import Artifact, Told, find_root
from serve.model.foreign import read_artifact


def find_source(source: str, roots: Iterable[Path]) -> Path:
    """Return the directory that `source` names, symlinks resolved.

    Raises:
        UnknownPath: It does not exist, or lies outside of `roots`; the sentence does not say which.
    """
    refusal = UnknownPath("src names no directory below one that adapters may be loaded from")
    if "\0" in source or not source.strip():
        raise refusal
    try:
        path = Path(source.removeprefix("file://")).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal from error
    if not path.is_dir() or not _is_below(path, roots):
        raise refusal
    return path


def read_adapter(
    path: Path, roots: Iterable[Path], base_dir: Path, fingerprint: str, told: Told | None = None
) -> Artifact:
    """Return the checked artifact in a directory; see `serve.model.foreign` for what others made.

    Args:
        path: Directory that `find_source` returned.
        roots: Directories that its files must lie in.
        base_dir: Checkpoint of the base model, whose tensors the adapter's must fit.
        fingerprint: `base_fingerprint` of the base model.
        told: What is known of a model without a manifest.

    Raises:
        BadAdapter: A file is missing, damaged, elsewhere, or does not fit the base model.
    """
    check_links(path, roots)
    try:
        return read_artifact(find_root(path), base_dir, fingerprint, told or Told())
    except ArtifactError as error:
        raise BadAdapter(_relative(error, path)) from error


def check_links(path: Path, roots: Iterable[Path]) -> None:
    """Refuse a directory of which anything leads elsewhere, through other directories or not.

    Raises:
        BadAdapter: Names it.
    """
    roots = list(roots)
    directories = [path]
    for directory in directories:  # links add to them
        for link in (file for file in directory.rglob("*") if file.is_symlink()):
            target = link.resolve()
            if not _is_below(target, roots):
                raise BadAdapter(
                    f"{link.relative_to(directory)}: leads out of the directories that may be loaded from"
                )
            if target.is_dir() and target not in directories:
                directories.append(target)


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in roots)


def _relative(error: ArtifactError, path: Path) -> str:
    """Return an error's sentence without the directory, which is nobody's business."""
    return str(error).replace(f"{path}/", "")
