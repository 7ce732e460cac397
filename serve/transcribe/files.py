"""Find recordings by the names on a command line, and plan where transcripts go. Opens none of them."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from serve.model.junk import is_junk

EXTENSIONS = frozenset(
    (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga"),
        *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".aac", ".amr", ".wma", ".asf", ".wmv"),
        *(".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mka", ".mkv", ".webm", ".mts", ".m2ts"),
    )
)
"""Suffixes that folders are searched for. A file named directly is read whatever its suffix."""


@dataclass(frozen=True)
class FoundFile:
    path: Path
    root: Path
    """The named folder, or the file's own; output directories repeat the tree below it."""


@dataclass(frozen=True)
class Job:
    """A recording, and where to write its transcript."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Problem:
    """Why a name or a file has no transcript."""

    name: str
    sentence: str


def find_files(names: Sequence[str]) -> tuple[list[FoundFile], list[Problem]]:
    """Return the files that names match, each once, and the names that match none.

    Args:
        names: Files; folders, searched recursively; or patterns with `*`, `?`, `[...]` and `**`.
    """
    found: dict[Path, FoundFile] = {}
    problems = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = [FoundFile(each, path) for each in _recordings_below(path)]
            missing = "holds no recordings with a name that we know, such as .wav, .mp3 or .m4a"
        elif path.exists():
            files, missing = [FoundFile(path, path.parent)], ""
        elif glob.has_magic(name):
            files = _matching(path)
            missing = "matches no recordings with a name that we know, such as .wav, .mp3 or .m4a"
        else:
            files, missing = [], "no such file or folder"
        if not files:
            problems.append(Problem(name, missing))
        for file in files:
            found.setdefault(file.path.resolve(), file)
    return list(found.values()), problems


def plan_jobs(
    files: Sequence[FoundFile], suffix: str, output_dir: Path | None
) -> tuple[list[Job], list[Problem]]:
    """Choose where each transcript goes: beside its recording, or in the same tree below `output_dir`.

    `a.mp3` gives `a.txt`. Where several recordings would share a transcript, each keeps its extension, as in
    `a.mp3.txt`. A recording whose transcript would still replace another one is a problem.
    """
    folders = [
        output_dir / file.path.parent.relative_to(file.root) if output_dir else file.path.parent
        for file in files
    ]
    short = [folder / f"{file.path.stem}{suffix}" for file, folder in zip(files, folders, strict=True)]
    n_wanted = Counter(short) + Counter(file.path for file in files)  # recordings must not be overwritten
    jobs: dict[Path, Job] = {}
    problems = []
    for file, folder, target in zip(files, folders, short, strict=True):
        if n_wanted[target] > 1:
            target = folder / f"{file.path.name}{suffix}"
        if target in jobs:
            other = jobs[target].source
            problems.append(
                Problem(str(file.path), f"its transcript would replace that of {other}, as {target}")
            )
        else:
            jobs[target] = Job(file.path, target)
    return list(jobs.values()), problems


def _recordings_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if _is_recording(path))


def is_recording_name(path: PurePath) -> bool:
    """Tell whether folders are searched for files of such a name; hidden ones are seldom recordings."""
    is_hidden = path.name.startswith(".") or is_junk(path)
    return path.suffix.lower() in EXTENSIONS and not is_hidden


def _is_recording(path: Path) -> bool:
    return is_recording_name(path) and path.is_file()


def _matching(pattern: Path) -> list[FoundFile]:
    """Return the recordings that a pattern matches; their root is the folder above its first wildcard."""
    n_fixed = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:n_fixed])
    try:
        matches = sorted(root.glob("/".join(pattern.parts[n_fixed:])))
    except ValueError:  # such as `**` within a name
        return []
    return [FoundFile(match, root) for match in matches if _is_recording(match)]
