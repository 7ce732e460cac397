"""What a source says of each clip, before anything of it is checked or decoded. Knows no source.

    manifest line, table row, row of the hub -> `Record` -> `Clip`, the audio checked
                                                         -> `Entry`, the audio decoded into a shard

Also the text files of sources, read as any editor writes them. Notepad and Excel mark UTF-8, and write UTF-16
with a mark; without one, a file is UTF-8. No mark and no line end gets into a text that is trained on,
wherever it stands: files that were joined have marks inside.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

VoiceKind = Literal["people", "neural", "diphone", "formant", "none", "unknown"]
"""Who speaks: people, or a synthesiser of one of three kinds; nobody at all; or nobody knows who."""
VOICE_KINDS: tuple[VoiceKind, ...] = get_args(VoiceKind)
"""In the order of tables: how a model hears people is what counts."""
SYNTHETIC: frozenset[str] = frozenset({"neural", "diphone", "formant"})
_VOICE_PREFIXES: dict[str, VoiceKind] = {
    "kokoro-": "neural",
    "piper-": "neural",
    "nsk-": "diphone",
    "espeak-": "formant",
}

MARK = "\ufeff"

_ENCODINGS = (  # UTF-32 first: its mark begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_LINE_END = re.compile(r"\s*[\r\n]\s*")


class SpokenText(msgspec.Struct, frozen=True, kw_only=True):
    """What is said in a clip: the fields that stay the same from the source to training."""

    text: str
    start_s: float = 0.0
    """Where the clip begins in its recording."""
    language: str | None = None
    """Whisper's language code."""
    voice: str | None = None

    def carried(self) -> dict[str, Any]:
        """Return these fields, as arguments for the record of the next stage."""
        return {name: getattr(self, name) for name in SpokenText.__struct_fields__}


class Record(SpokenText, frozen=True, kw_only=True):
    """One recording, or a stretch of one, and what is said in it."""

    audio: Path | bytes
    """A file that may be missing, or the bytes of one; of any format that the service reads."""
    origin: str
    """`FILE:LINE`, for messages."""
    end_s: float | None = None
    """End of the stretch; None is the end of the recording."""
    kind: VoiceKind = "unknown"
    source: str | None = None
    """Corpus that the clip belongs to, for statistics."""


def voice_kind(kind: str | None, voice: str | None, text: str) -> VoiceKind:
    """Return who speaks a clip: the kind that its row names, or else the kind of its voice.

    A row may use `kind` for something else; an unknown kind is ignored. People are never assumed.

    Args:
        kind: Kind that the row names.
        voice: Name of the speaker; names of the project's own synthesis are known.
        text: Transcript; where it is empty, nobody speaks.
    """
    for known in VOICE_KINDS:
        if kind == known:
            return known
    if not text:
        return "none"
    return next(
        (found for prefix, found in _VOICE_PREFIXES.items() if (voice or "").startswith(prefix)), "unknown"
    )


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
