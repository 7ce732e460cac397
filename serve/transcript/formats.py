"""Answer formats: events -> bytes, and which format a request names.

Each answer takes one fresh encoder from its `Format`. An encoder is fed every event in order and returns the
bytes to send for it, perhaps none; it does no I/O, so threads and coroutines use it alike. Knows no HTTP
beyond media types; `serve.http.accept` chooses among them by an `Accept` header.
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
    """Turns the events of one answer into bytes."""

    def encode(self, event: Event) -> bytes:
        """Return the bytes to send for the next event; empty where the format has nothing to say yet."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """An answer format."""

    name: str
    """Under which requests ask for it."""
    media_type: str
    content_type: str
    """Value of the answer's `Content-Type`."""
    new_encoder: Callable[[], Encoder]
    streams: bool
    """Whether bytes come before the `End`."""
    suffix: str
    """Of files that hold such answers."""
    aliases: tuple[str, ...] = ()
    """Further names of the media type."""


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


# Where a client likes several equally, the first of these wins; so `verbose_json` is had by its name only.
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
        name: What was asked for.
        option: Under which it was asked for, for the error to say so.

    Raises:
        UnsupportedOption: There is none of this name.
    """
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise UnsupportedOption(option, f"'{str(name)[:60]}' is no answer format; choose one of {known}")


def take_format(values: Mapping[str, Any]) -> tuple[Format | None, dict[str, Any]]:
    """Part the format that options ask for, None if they name none, from the options of the transcription.

    Raises:
        UnsupportedOption: There is no such format, or two different ones are asked for.
    """
    rest = dict(values)
    asked = {
        option: value for option in FORMAT_OPTIONS if (value := rest.pop(option, None)) not in (None, "")
    }
    formats = [named_format(value, option) for option, value in asked.items()]
    if len(set(asked.values())) > 1:
        raise UnsupportedOption(FORMAT_OPTIONS[1], f"contradicts option '{FORMAT_OPTIONS[0]}'")
    return (formats[0] if formats else None), rest
