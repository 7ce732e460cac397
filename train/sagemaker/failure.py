"""Say why training failed, where SageMaker looks for it: the first characters of one file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FAILURE_VARIABLE = "SHROTA_TRAIN_FAILURE"
"""Environment variable that names the file; where it is not set, the reason is printed only."""
MAX_CHARACTERS = 1_024  # what becomes the job's FailureReason


def write_failure(path: Path, reason: str) -> None:
    """Write a sentence, unless there is one already: of several processes that fail, the first knows why."""
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(shorten(reason))


def shorten(reason: str) -> str:
    """Return the reason on one line and no longer than the platform reads."""
    line = "; ".join(part.strip() for part in reason.splitlines() if part.strip())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
