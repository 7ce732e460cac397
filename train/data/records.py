"""What a source says of each clip, before anything of it is checked or decoded. Knows no source.

manifest line, table row, row of the hub -> `Record` -> `Clip`, the audio checked
-> `Entry`, the audio decoded into a shard
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """What is said in a clip: the fields that stay the same from the source to training."""

    text: str
    start_s: float = 0.0
    """Where the clip begins in its recording."""
    language: str | None = None
    """Whisper's language code."""
    voice: str | None = None
    source: str | None = None
    """Corpus that the clip belongs to, for statistics."""

    def carried(self) -> dict[str, Any]:
        """Return these fields, as arguments for the record of the next stage."""
        return {name: getattr(self, name) for name in Utterance.__struct_fields__}


class Record(Utterance, frozen=True, kw_only=True):
    """One recording, or a stretch of one, and what is said in it."""

    audio: Path | bytes
    """A file that may be missing, or the bytes of one; of any format that the service reads."""
    origin: str
    """`FILE:LINE`, for messages."""
    end_s: float | None = None
    """End of the stretch; None is the end of the recording."""
