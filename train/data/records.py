"""The row that every source of clips gives, before anything of it is checked or decoded; kinds of voices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

VoiceKind = Literal["people", "neural", "diphone", "formant", "none", "unknown"]
"""Who speaks: people, or a synthesiser of one of three kinds; nobody at all; or nobody knows who."""
VOICE_KINDS: tuple[VoiceKind, ...] = get_args(VoiceKind)
"""In the order of tables: how a model hears people is what counts."""
SYNTHETIC: frozenset[str] = frozenset({"neural", "diphone", "formant"})
_VOICE_PREFIXES: dict[str, VoiceKind] = {"kokoro-": "neural", "nsk-": "diphone", "espeak-": "formant"}


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
    kind: VoiceKind = "unknown"
    source: str | None = None
    """What the clip belongs to, for statistics."""


def voice_kind(kind: str | None, voice: str | None, text: str) -> VoiceKind:
    """Return who speaks a clip: what its row says, or else what the name of its voice tells.

    A row may use `kind` for something else; such a word says nothing. People are never assumed.

    Args:
        kind: as the row gives it.
        voice: name of the speaker; those of the project's own synthesis are known.
        text: what is said; where nothing is, nobody speaks.
    """
    for known in VOICE_KINDS:
        if kind == known:
            return known
    if not text:
        return "none"
    return next(
        (found for prefix, found in _VOICE_PREFIXES.items() if (voice or "").startswith(prefix)), "unknown"
    )
