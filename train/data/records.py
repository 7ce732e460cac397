"""Records of clips as a source gives them, before anything is checked or decoded. Knows no source.

    manifest line, table row, row of the hub -> `Record` -> `Clip`, its audio checked
                                                         -> `Entry`, its audio decoded into a shard

Also reads text files as editors write them: UTF-8, or what a byte order mark says, since Notepad and Excel
write UTF-8 and UTF-16 with one. Byte order marks and line ends are removed from texts wherever they stand,
because concatenated files have marks inside.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from serve.engine.languages import language_code
from train.errors import DataError

VoiceKind = Literal["people", "neural", "diphone", "formant", "none", "unknown"]
"""Kind of voice: people, one of three kinds of synthesis, no speech, or unknown."""
VOICE_KINDS: tuple[VoiceKind, ...] = get_args(VoiceKind)
"""In the order of tables: people first, since they matter most."""
SYNTHETIC: frozenset[str] = frozenset({"neural", "diphone", "formant"})
_VOICE_PREFIXES: dict[str, VoiceKind] = {
    "kokoro-": "neural",
    "piper-": "neural",
    "nsk-": "diphone",
    "espeak-": "formant",
}

MARK = "\ufeff"

_ENCODINGS = (  # UTF-32 first, because its mark starts like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LINE_END = re.compile(r"\s*[\r\n]\s*")


class SpokenText(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a clip that stay the same from source to training."""

    text: str
    start_s: float = 0.0
    """Start of the clip in its recording."""
    language: str | None = None
    """Whisper's language code."""
    voice: str | None = None

    def carried(self) -> dict[str, Any]:
        """Return these fields as arguments for the next stage's record."""
        return {name: getattr(self, name) for name in SpokenText.__struct_fields__}


class Record(SpokenText, frozen=True, kw_only=True):
    """A recording or a part of one, and its transcript."""

    audio: Path | bytes
    """A file, which may be missing, or a file's bytes, in any format that the service reads."""
    origin: str
    """`FILE:LINE`, for messages."""
    end_s: float | None = None
    """End of the part; None is the end of the recording."""
    kind: VoiceKind = "unknown"
    source: str | None = None
    """Corpus of the clip, for statistics."""


def voice_kind(kind: str | None, voice: str | None, text: str) -> VoiceKind:
    """Return the kind of voice of a clip: the one its row names, or else the one its voice's name implies.

    A row may use `kind` for something else, so an unknown kind is ignored. People are never assumed.

    Args:
        kind: The row's `kind`.
        voice: Name of the speaker; names of the project's own synthesis are recognised.
        text: Transcript; an empty one means no speech.
    """
    for known in VOICE_KINDS:
        if kind == known:
            return known
    if not text:
        return "none"
    return next(
        (found for prefix, found in _VOICE_PREFIXES.items() if (voice or "").startswith(prefix)), "unknown"
    )


def row_language(written: str | None) -> str | None:
    """Return Whisper's code of the language that a row names, as `mr`, `mr-IN` or `Marathi`; None for none.

    Raises:
        DataError: Whisper has no such language.
    """
    if not written:
        return None
    if faults := language_faults(written):
        raise DataError(*faults)
    return language_code(written)


def language_faults(written: str | None) -> list[str]:
    """Return a sentence that says so if Whisper has no such language; nothing for None."""
    if written is None or language_code(written) is not None:
        return []
    return [f"'{written}' is not a language of Whisper; write a code such as mr or hi"]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, without line ends and byte order marks.

    In a file without a mark, invalid UTF-8 becomes lone surrogates (`is_broken`), so that the line can be
    reported.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: The file is not in the encoding of its mark.
    """
    lines = decode_text(path.read_bytes(), errors="surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()  # the file ends with a line break
    return [line.removesuffix("\r").removeprefix(MARK) for line in lines]


def decode_text(data: bytes, *, errors: str = "strict") -> str:
    """Decode a file's content by its byte order mark, or else as UTF-8; the mark is removed.

    Args:
        data: The whole file.
        errors: How to treat invalid UTF-8; see `bytes.decode`.

    Raises:
        UnicodeDecodeError: The content is not in that encoding.
    """
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            return data.decode(encoding, errors=errors if encoding == "utf-8-sig" else "strict")
    return data.decode("utf-8", errors=errors)


def is_broken(line: str) -> bool:
    """Tell whether a line from `read_lines` held invalid UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in line)


def transcript(text: str) -> str:
    """Return a text for training, without byte order marks, line ends and outer whitespace."""
    return _LINE_END.sub(" ", text.replace(MARK, "")).strip()
