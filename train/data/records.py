"""What a source says of each clip, before anything of it is checked or decoded. Knows no source.

manifest line, table row, row of the hub -> `Record` -> `Clip`, the audio checked
-> `Entry`, the audio decoded into a shard
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

VoiceKind = Literal["people", "neural", "diphone", "formant", "none", "unknown"]
"""Who speaks: people, or a synthesiser of one of three kinds; nobody at all; or nobody knows who."""
VOICE_KINDS: tuple[VoiceKind, ...] = get_args(VoiceKind)
"""In the order of tables: how a model hears people is what counts."""
SYNTHETIC: frozenset[str] = frozenset({"neural", "diphone", "formant"})
_VOICE_PREFIXES: dict[str, VoiceKind] = {"kokoro-": "neural", "nsk-": "diphone", "espeak-": "formant"}


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
