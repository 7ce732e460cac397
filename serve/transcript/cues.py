"""Subtitle formats `srt` and `vtt`: cues, as soon as their segment is known."""

from __future__ import annotations

from collections.abc import Iterable

from serve.transcript.events import End, Event, Failure, Segment, Start
from serve.transcript.lines import failure_line
from serve.transcript.subtitles import Cue, CueRules, Subtitler

FAILURE_SHOWN_MS = 2_000


class SrtEncoder:
    """SubRip cues, numbered from 1. An error becomes a last cue, because the format has no comments."""

    def __init__(self, rules: CueRules | None = None) -> None:
        self._subtitler = Subtitler(rules)
        self._n_cues = 0
        self._end_ms = 0

    def encode(self, event: Event) -> bytes:
        match event:
            case Segment():
                return self._written(self._subtitler.add(event))
            case End(transcript=transcript):
                return self._written(self._subtitler.finish(transcript.duration_s))
            case Failure():
                known = self._written(self._subtitler.finish())
                end_ms = self._end_ms + FAILURE_SHOWN_MS
                failure = Cue(start_ms=self._end_ms, end_ms=end_ms, lines=(failure_line(event),))
                return known + self._written([failure])
        return b""

    def _written(self, cues: Iterable[Cue]) -> bytes:
        written = []
        for cue in cues:
            self._n_cues += 1
            self._end_ms = max(self._end_ms, cue.end_ms)
            times = f"{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}"
            # An arrow in the text would start a new cue in naive readers.
            text = "\n".join(cue.lines).replace("-->", "→")
            written.append(f"{self._n_cues}\n{times}\n{text}\n\n")
        return "".join(written).encode()


class VttEncoder:
    """WebVTT cues. An error becomes a comment."""

    def __init__(self, rules: CueRules | None = None) -> None:
        self._subtitler = Subtitler(rules)

    def encode(self, event: Event) -> bytes:
        """Return the header at the `Start`, then the cues that the event completes."""
        match event:
            case Start():
                return b"WEBVTT\n\n"
            case Segment():
                return _webvtt(self._subtitler.add(event))
            case End(transcript=transcript):
                return _webvtt(self._subtitler.finish(transcript.duration_s))
            case Failure():
                note = f"NOTE {failure_line(event).replace('-->', '→')}\n\n"
                return _webvtt(self._subtitler.finish()) + note.encode()
        return b""


def _webvtt(cues: Iterable[Cue]) -> bytes:
    written = []
    for cue in cues:
        text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        written.append(f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{text}\n\n")
    return "".join(written).encode()


def _clock(milliseconds: int, decimal_mark: str) -> str:
    """Format a time as HH:MM:SS and milliseconds."""
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"
