"""Read and write rows of transcripts, one recording each: JSON lines as `shrota batch` writes them.

The only place that knows the names of their fields. Fields that are not read here may be there as well.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from serve.transcribe.batch.output import RESULTS
from serve.transcript.events import Transcript
from serve.transcript.wire import SegmentBody, transcript_body
from train.errors import DataError


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What was heard in one recording."""

    path: str
    """The recording; absolute, or relative to the working directory."""
    duration_s: float
    language: str | None
    text: str
    segments: list[SegmentBody]


def row_of(recording: Path, transcript: Transcript) -> Row:
    """Return the row of a transcribed recording."""
    body = transcript_body(transcript, None)
    return Row(
        path=str(recording.absolute()),
        duration_s=body.duration_s,
        language=body.language,
        text=body.text,
        segments=body.segments,
    )


def read_rows(output: Path) -> dict[str, Row]:
    """Return the rows of a file, of all `*.jsonl` of a folder, or of a batch's output, by recording.

    Raises:
        DataError: The output cannot be read, has no rows, or holds something else; names file and line.
    """
    folder = output / RESULTS if (output / RESULTS).is_dir() else output
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [folder]
    rows: dict[str, Row] = {}
    for file in files:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"the transcripts {file} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            try:
                row = msgspec.json.decode(line, type=Row)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{file}:{number} is no transcript of a recording: {error}") from error
            if "://" in row.path:
                raise DataError(
                    f"{file}:{number} names a recording that is not in this file system: {row.path}."
                    " Copy the recordings here and transcribe the copies"
                )
            rows[row.path] = row
    if not rows:
        raise DataError(f"{output} holds no transcripts: a line of JSON for each recording is needed")
    return rows
