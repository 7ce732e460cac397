"""Parse the settings of a live stream: the sound's format, the pause that ends a phrase, and options.

    {"sample_rate": 16000, "encoding": "pcm_s16le", "channels": 1, "pause_s": 1.0, "language": "mr", ...}
    {"encoding": "container", ...}       # WebM or Ogg, which say the rest themselves

All other names are transcription options, checked as in any request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from serve.audio.streams.pcm import Encoding, PcmFormat
from serve.errors import UnsupportedOption
from serve.options import TranscriptionOptions, option_refusal, parse_options

LEAST_PAUSE_S = 0.5
"""The shortest pause that may end a phrase, in seconds: its last words are decoded in the pause."""

MOST_PAUSE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """Settings of one live stream."""

    pcm: PcmFormat | None = field(default_factory=PcmFormat)
    """Format of raw samples; None for WebM or Ogg."""
    options: TranscriptionOptions = field(default_factory=TranscriptionOptions)
    pause_s: float = 1.0
    """Silence that ends a phrase, in seconds; infinite where only the client ends one."""


class _WireSound(msgspec.Struct, kw_only=True):
    sample_rate: Annotated[int, msgspec.Meta(ge=8_000, le=48_000)] = 16_000
    encoding: Encoding | Literal["container"] = "pcm_s16le"
    channels: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1


def parse_live_settings(values: Mapping[str, Any], base: TranscriptionOptions | None = None) -> LiveSettings:
    """Parse and check settings.

    Args:
        values: Name -> value; numbers may be written as text.
        base: Defaults for options that `values` lacks.

    Raises:
        UnsupportedOption: A name is unknown, or its value invalid.
    """
    try:
        sound = msgspec.convert(dict(values), _WireSound, strict=False)
    except msgspec.ValidationError as error:
        raise option_refusal(str(error)) from error
    known = {*_WireSound.__struct_fields__, "pause_s"}
    rest = {name: value for name, value in values.items() if name not in known}
    return LiveSettings(
        pcm=None
        if sound.encoding == "container"
        else PcmFormat(sample_rate=sound.sample_rate, encoding=sound.encoding, n_channels=sound.channels),
        options=parse_options(rest, base=base),
        pause_s=_pause_s(values.get("pause_s", LiveSettings.pause_s)),
    )


def _pause_s(given: object) -> float:
    try:
        pause_s = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pause_s = math.nan
    if not (LEAST_PAUSE_S <= pause_s <= MOST_PAUSE_S or pause_s == math.inf):
        raise UnsupportedOption("pause_s", f"must be a number from {LEAST_PAUSE_S:g} to {MOST_PAUSE_S:g}")
    return pause_s
