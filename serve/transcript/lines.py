"""Formats that grow line by line: `ndjson`, `sse`, `text` and `tsv`."""

from __future__ import annotations

from serve.transcript.events import Event, Failure, Segment, Start
from serve.transcript.wire import WireEvent, encode_json, wire_event


class NdjsonEncoder:
    """One JSON object per line; every call returns complete lines."""

    def encode(self, event: Event) -> bytes:
        return encode_json(wire_event(event)) + b"\n"


class SseEncoder:
    """Server-sent events: the event's type as `event:`, its NDJSON line as `data:`."""

    def encode(self, event: Event) -> bytes:
        wire = wire_event(event)
        return b"event: %s\ndata: %s\n\n" % (_type_of(wire).encode(), encode_json(wire))


class TextEncoder:
    """One line of plain text per segment."""

    def encode(self, event: Event) -> bytes:
        match event:
            case Segment(text=text) if text.strip():
                return f"{one_line(text)}\n".encode()
            case Failure():
                return f"{failure_line(event)}\n".encode()
        return b""


class TsvEncoder:
    """Tab-separated start and end in whole milliseconds, and text, like openai/whisper's."""

    def __init__(self) -> None:
        self._end_ms = 0

    def encode(self, event: Event) -> bytes:
        """Return the header at the `Start`, then the segment as one row. An error becomes a last row."""
        match event:
            case Start():
                return b"start\tend\ttext\n"
            case Segment(text=text, start_s=start_s, end_s=end_s) if text.strip():
                self._end_ms = round(1000 * end_s)
                return f"{round(1000 * start_s)}\t{self._end_ms}\t{one_line(text)}\n".encode()
            case Failure():
                return f"{self._end_ms}\t{self._end_ms}\t{failure_line(event)}\n".encode()
        return b""


def one_line(text: str) -> str:
    """Replace line breaks and tabs by spaces."""
    return " ".join(text.split())


def failure_line(failure: Failure) -> str:
    """Return a failure as one line for people."""
    return one_line(f"[error: {failure.code}: {failure.message}]")


def _type_of(wire: WireEvent) -> str:
    return str(wire.__struct_config__.tag)
