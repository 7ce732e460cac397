"""The row that every source of clips gives, before anything of it is checked or decoded; and its text files.

Text files are read as any editor writes them. Notepad and Excel mark UTF-8, and write UTF-16 with a mark;
without one, a file is UTF-8. No mark and no line end gets into a text that is trained on, wherever it stands:
files that were joined have marks inside.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

import msgspec

MARK = "\ufeff"

_ENCODINGS = (  # UTF-32 first: its mark begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LINE_END = re.compile(r"\s*[\r\n]\s*")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One recording, or a stretch of one, and what is said in it."""

    audio: Path | bytes
    """A file that may be missing, or the bytes of one; of any format that the service reads."""
    text: str
    origin: str
    """`FILE:LINE`, for messages."""
    start_s: float = 0.0
    end_s: float | None = None
    """End of the stretch; None is the end of the recording."""
    language: str | None = None
    voice: str | None = None
    source: str | None = None
    """What the clip belongs to, for statistics."""


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, without their ends and without marks.

    What is not UTF-8 in a file without a mark becomes lone surrogates (`is_broken`), so that the line can be
    named.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is not in the encoding that its mark promises.
    """
    lines = decode_text(path.read_bytes(), errors="surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()  # behind the last line break there is no line
    return [line.removesuffix("\r").removeprefix(MARK) for line in lines]


def decode_text(data: bytes, *, errors: str = "strict") -> str:
    """Return a file's content by its mark, without it; without one it is UTF-8.

    Args:
        data: Of the whole file.
        errors: What is done with bytes that are not UTF-8, as `bytes.decode` knows it.

    Raises:
        UnicodeDecodeError: It is not in that encoding.
    """
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            return data.decode(encoding, errors=errors if encoding == "utf-8-sig" else "strict")
    return data.decode("utf-8", errors=errors)


def is_broken(line: str) -> bool:
    """Tell whether a line of `read_lines` held bytes that are not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in line)


def transcript(text: str) -> str:
    """Return a text as it is trained on: without marks, line ends and outer blanks."""
    return _LINE_END.sub(" ", text.replace(MARK, "")).strip()
