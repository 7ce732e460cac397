"""Read directories of recordings as records: a Common Voice release, or audio files with transcripts.

A bad line of a table is reported by file and line. Opens no audio.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.model.junk import is_junk
from train.data.filters import DropLog, Reason
from train.data.records import Record, decode_text, is_broken, read_lines, transcript
from train.data.specs import Purpose
from train.errors import DataError

COMMON_VOICE_SPLITS: dict[Purpose, str] = {"train": "train+validation", "valid": "validation", "test": "test"}
_COMMON_VOICE_FILES = {"validation": "dev"}  # split -> stem of its TSV, where they differ
_AUDIO_SUFFIXES = {".aac", ".flac", ".m4a", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"}
_TABLES = ("transcripts.tsv", "metadata.csv", "metadata.tsv", "transcripts.csv", "line_index.tsv")
_FILE_COLUMNS = ("file_name", "path", "file", "audio")
_TEXT_COLUMNS = ("text", "transcription", "sentence", "transcript")
_VOICE_COLUMNS = ("client_id", "speaker_id", "speaker", "voice")


def common_voice_dir(directory: Path, language: str) -> Path | None:
    """Return the directory that holds a release's tables: this one or a language's below; None if neither."""
    for candidate in (directory, directory / language, *sorted(directory.glob(f"cv-corpus-*/{language}"))):
        if any((candidate / f"{name}.tsv").is_file() for name in ("train", "dev", "test", "validated")):
            return candidate
    return None


def read_common_voice(directory: Path, splits: str, language: str, log: DropLog) -> Iterator[Record]:
    """Yield the clips of a release as downloaded: `clips/*.mp3` and a TSV for each split.

    Args:
        directory: Where the tarball was unpacked.
        splits: `train`, `validation` (or `dev`), `test`, `validated`, ... joined by `+`.
        language: Language code of the clips and of the release's directory.
        log: Collects bad rows.

    Raises:
        DataError: There is no such release or table.
    """
    release = common_voice_dir(directory, language)
    if release is None:
        raise DataError(
            f"{directory} holds no Common Voice release for '{language}': neither it nor {language}/ below it"
            " holds a train.tsv"
        )
    for split in splits.split("+"):
        table = release / f"{_COMMON_VOICE_FILES.get(split, split)}.tsv"
        for row in read_table(table, ("path",), ("sentence",), log):
            name = row.file if Path(row.file).suffix else f"{row.file}.mp3"  # old releases omit the suffix
            yield Record(
                audio=release / "clips" / name,
                text=row.text,
                origin=row.origin,
                language=language,
                voice=row.voice,
                source=f"common_voice/{split}",
            )


def read_folder(
    directory: Path, split: str | None, log: DropLog, *, untranscribed: bool = False
) -> Iterator[Record]:
    """Yield audio files with their transcripts: `NAME.txt` beside each, or one table for all.

    The table is `transcripts.tsv` or `metadata.csv` with a column `file_name` and one of `text`,
    `transcription` or `sentence`; or OpenSLR's `line_index.tsv`, which has no header.

    Args:
        directory: Searched with all directories below it, where transcripts are files.
        split: Directory below it to read instead, if any.
        log: Collects bad rows.
        untranscribed: Whether a recording without a transcript is read with an empty text.

    Raises:
        DataError: The directory does not exist, or holds no audio.
    """
    if split:
        directory = directory / split
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory of recordings")
    for name in _TABLES:
        if (directory / name).is_file():
            yield from _read_listed(directory, directory / name, log)
            return
    audio = [
        path
        for path in sorted(directory.rglob("*"))
        if path.suffix.lower() in _AUDIO_SUFFIXES and not is_junk(path.relative_to(directory))
    ]
    if not audio:
        raise DataError(
            f"{directory} holds no audio files; transcripts are NAME.txt beside NAME.wav, .mp3, ..."
        )
    for path in audio:
        said = path.with_suffix(".txt")
        try:
            text = " ".join(transcript(decode_text(said.read_bytes())).split())
        except FileNotFoundError:
            if untranscribed:
                yield Record(audio=path, text="", origin=f"{path}:1")
                continue
            log.drop(Reason.MALFORMED, f"{path}:1", f"no transcript {said.name} lies beside it")
            continue
        except (OSError, UnicodeDecodeError) as error:
            log.drop(Reason.MALFORMED, f"{said}:1", f"the transcript cannot be read: {error}")
            continue
        yield Record(audio=path, text=text, origin=f"{said}:1")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One line of a table: a clip and its transcript."""

    file: str
    text: str
    voice: str | None
    origin: str


def read_table(
    table: Path, file_columns: Sequence[str], text_columns: Sequence[str], log: DropLog
) -> Iterator[TableRow]:
    """Yield the rows of a CSV or TSV file with a header; malformed lines go to `log`.

    Raises:
        DataError: The table cannot be read, or lacks a column.
    """
    lines = _read_cells(table, log)
    header_origin, header = next(lines, (f"{table}:1", []))
    columns = {name.strip(): place for place, name in enumerate(header)}

    def place_of(names: Sequence[str]) -> int:
        found = next((columns[name] for name in names if name in columns), None)
        if found is None:
            raise DataError(f"{header_origin}: no column {' or '.join(names)}; there are {', '.join(header)}")
        return found

    file_place, text_place = place_of(file_columns), place_of(text_columns)
    voice_place = next((columns[name] for name in _VOICE_COLUMNS if name in columns), None)
    for origin, cells in lines:
        if len(cells) != len(header):
            log.drop(Reason.MALFORMED, origin, f"the line has {len(cells)} cells, the header {len(header)}")
            continue
        voice = cells[voice_place] if voice_place is not None else ""
        text = transcript(cells[text_place])
        yield TableRow(file=cells[file_place].strip(), text=text, voice=voice or None, origin=origin)


def _read_listed(directory: Path, table: Path, log: DropLog) -> Iterator[Record]:
    """Yield the clips that a table lists by paths relative to its directory."""
    headless = table.name == "line_index.tsv"
    rows = _read_line_index(table, log) if headless else read_table(table, _FILE_COLUMNS, _TEXT_COLUMNS, log)
    for row in rows:
        yield Record(audio=directory / row.file, text=row.text, origin=row.origin, voice=row.voice)


def _read_line_index(table: Path, log: DropLog) -> Iterator[TableRow]:
    """Yield the rows of an OpenSLR table: `mrt_02436_00011399801<TAB>text`, names without suffix."""
    for origin, cells in _read_cells(table, log):
        if len(cells) < 2:
            log.drop(Reason.MALFORMED, origin, "the line has no tab between name and text")
            continue
        name = cells[0].strip()
        speaker = "_".join(name.split("_")[:2]) if name.count("_") == 2 else None
        yield TableRow(file=f"{name}.wav", text=transcript(cells[-1]), voice=speaker, origin=origin)


def _read_cells(table: Path, log: DropLog) -> Iterator[tuple[str, list[str]]]:
    """Yield (`FILE:LINE`, cells) of every line.

    Raises:
        DataError: The table cannot be read, or a quoted cell swallows rows.
    """
    try:
        lines = read_lines(table)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"table {table} cannot be read: {error}") from error
    if table.suffix == ".csv":
        cells_of_lines = _read_quoted(table, lines, log)
    else:  # TSV has no quoting: a quotation mark is part of the sentence
        cells_of_lines = ((number, line.split("\t")) for number, line in enumerate(lines, 1))
    for number, cells in cells_of_lines:
        origin = f"{table}:{number}"
        if not any(cell.strip() for cell in cells):
            log.drop(Reason.EMPTY_LINE, origin, "the line is empty")
        elif any(is_broken(cell) for cell in cells):
            log.drop(Reason.MALFORMED, origin, "the line is not UTF-8")
        else:
            yield origin, cells


def _read_quoted(table: Path, lines: Sequence[str], log: DropLog) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, cells) of every row of a CSV file; a single bad line goes to `log`.

    A quoted transcript may go on in the next lines, unless one of them has as many commas as the header.

    Raises:
        DataError: A quoted cell swallows rows, as it does where a quotation mark is missing.
    """
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    n_columns = 0
    while True:
        first = reader.line_num + 1
        origin = f"{table}:{first}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > first:
                raise DataError(f"{origin}: {_run_on(reader.line_num)} ({error})") from error
            log.drop(Reason.MALFORMED, origin, f"quotation marks do not match: {error}")
            continue
        n_columns = n_columns or len(cells)
        if any(line.count(",") >= n_columns - 1 for line in lines[first : reader.line_num]):
            raise DataError(f"{origin}: {_run_on(reader.line_num)}")
        yield first, cells


def _run_on(line: int) -> str:
    return (
        f"a quoted cell goes on to line {line}, over other rows: close its quotation mark, and write marks"
        " inside a quoted cell twice"
    )
