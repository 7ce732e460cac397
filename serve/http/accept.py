"""Negotiate the response format by the `Accept` header (RFC 9110, section 12.5.1).

Written by hand, because litestar's negotiation treats `q=0`, which refuses a format, as a low preference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve.errors import NotAcceptable
from serve.transcript.formats import FORMATS, Format

MediaRange = tuple[str, float]
"""A media range such as `text/*`, and its quality from 0 to 1."""


def media_ranges(accept: str) -> Iterator[MediaRange]:
    """Yield each media range of an `Accept` header with its quality; malformed parts are skipped."""
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        media_range = "*/*" if media_range == "*" else media_range  # Java's URLConnection sends `*`
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value.strip())
                except ValueError:
                    quality = -1.0
        if media_range.count("/") == 1 and 0.0 <= quality <= 1.0:
            yield media_range, quality


def quality_of(media_types: Sequence[str], ranges: Sequence[MediaRange]) -> float:
    """Return the quality of the most specific range that matches; 0 where none does.

    Args:
        media_types: Synonyms of one media type, the usual one first.
    """
    main_type = media_types[0].partition("/")[0]
    for pattern in (media_types, (f"{main_type}/*",), ("*/*",)):
        matching = [quality for media_range, quality in ranges if media_range in pattern]
        if matching:
            return max(matching)
    return 0.0


def negotiate_format(accept: str | None) -> Format:
    """Choose the format for an `Accept` header; JSON where it is absent or empty.

    Raises:
        NotAcceptable: No format matches.
    """
    if accept is None or not accept.strip():
        return FORMATS[0]
    ranges = list(media_ranges(accept))

    def quality(candidate: Format) -> float:
        return quality_of((candidate.media_type, *candidate.aliases), ranges)

    best = max(FORMATS, key=quality)
    if quality(best) <= 0:
        offered = ", ".join(dict.fromkeys(candidate.media_type for candidate in FORMATS))
        raise NotAcceptable(f"no answer format matches the Accept header; choose one of {offered}")
    return best
