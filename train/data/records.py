"""The row that every source of clips gives, before anything of it is checked or decoded."""

from __future__ import annotations

from pathlib import Path

import msgspec


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
