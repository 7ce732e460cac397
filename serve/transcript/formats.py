"""Response formats: turn events into bytes, and find the format that a request names.

Each response needs a new encoder from its `Format`. An encoder takes the events in order, and returns the
bytes to send for each, possibly none. It does no I/O, so threads and coroutines can use it. Knows no HTTP
beyond media types; `serve.http.accept` chooses by an `Accept` header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serve.errors import UnsupportedOption
from serve.options import FORMAT_OPTIONS
from serve.transcript.cues import SrtEncoder, VttEncoder
from serve.transcript.events import Event
from serve.transcript.json import JsonEncoder, VerboseJsonEncoder
from serve.transcript.lines import NdjsonEncoder, SseEncoder, TextEncoder, TsvEncoder


class Encoder(Protocol):
    """Encodes the events of one response."""

    def encode(self, event: Event) -> bytes:
        """Return the bytes to send for the next event, possibly none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    name: str
    """Name in requests."""
    media_type: str
    content_type: str
    """Value of the `Content-Type` header."""
    new_encoder: Callable[[], Encoder]
    streams: bool
    """Whether the encoder returns bytes before the `End`."""
    suffix: str
    """File name suffix."""
    aliases: tuple[str, ...] = ()
    """Synonyms of the media type."""


def _format(
    name: str,
    media_type: str,
    new_encoder: Callable[[], Encoder],
    *,
    streams: bool = True,
    suffix: str = "",
    aliases: tuple[str, ...] = (),
) -> Format:
    is_json = media_type.startswith("application/") and "json" in media_type
    return Format(
        name=name,
        media_type=media_type,
        content_type=media_type if is_json else f"{media_type}; charset=utf-8",
        new_encoder=new_encoder,
        streams=streams,
        suffix=suffix or f".{name}",
        aliases=aliases,
    )


# If a client accepts several equally, the first wins; so `verbose_json` must be requested by name.
FORMATS = (
    _format("json", "application/json", JsonEncoder, streams=False),
    _format("verbose_json", "application/json", VerboseJsonEncoder, streams=False, suffix=".json"),
    _format("ndjson", "application/x-ndjson", NdjsonEncoder, aliases=("application/ndjson",)),
    _format(
        "jsonlines",
        "application/jsonlines",
        NdjsonEncoder,
        suffix=".jsonl",
        aliases=("application/x-jsonlines", "application/jsonl"),
    ),
    _format("text", "text/plain", TextEncoder, suffix=".txt"),
    _format("sse", "text/event-stream", SseEncoder),
    _format("vtt", "text/vtt", VttEncoder),
    _format("srt", "application/x-subrip", SrtEncoder, aliases=("text/srt", "application/srt")),
    _format("tsv", "text/tab-separated-values", TsvEncoder),
)


def named_format(name: object, option: str = FORMAT_OPTIONS[0]) -> Format:
    """Return the format of a name.

    Args:
        option: The option that named it, for the error message.

    Raises:
        UnsupportedOption: There is no such format.
    """
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise UnsupportedOption(option, f"'{str(name)[:60]}' is not a response format; choose one of {known}")


def take_format(values: Mapping[str, Any]) -> tuple[Format | None, dict[str, Any]]:
    """Split options into the format they name, or None, and the transcription options.

    Raises:
        UnsupportedOption: There is no such format, or two different ones are named.
    """
    rest = dict(values)
    asked = {
        option: value for option in FORMAT_OPTIONS if (value := rest.pop(option, None)) not in (None, "")
    }
    formats = [named_format(value, option) for option, value in asked.items()]
    if len(set(asked.values())) > 1:
        raise UnsupportedOption(FORMAT_OPTIONS[1], f"contradicts option '{FORMAT_OPTIONS[0]}'")
    return (formats[0] if formats else None), rest
