"""Write a job's failure to the file that SageMaker reads its FailureReason from."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

FAILURE_VARIABLE = "SHROTA_TRAIN_FAILURE"
"""Environment variable that names the file; without it, the reason is only printed."""
MAX_CHARACTERS = 1_024  # longest FailureReason


def write_failure(path: Path, reason: str) -> None:
    """Write a sentence, unless there is one: the first of several failing processes knows the cause."""
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(shorten(reason))


def shorten(reason: str) -> str:
    """Return the reason on one line of at most `MAX_CHARACTERS`."""
    line = "; ".join(part.strip() for part in reason.splitlines() if part.strip())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
