"""What a caller may ask for, and what it must be. Knows no HTTP: names and values come as a plain mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec

from serve.engine import Task
from serve.engine.languages import language_code
from serve.errors import UnsupportedOption

NO_ADAPTER = "none"
"""Value of `adapter` that asks for the base model alone."""

DETECT = "auto"
"""Value of `language` that asks for detection, whatever the artifact's language is."""

FORMAT_OPTIONS = ("format", "response_format")
"""Names of the option that chooses the answer format (`serve.transcript.formats`); the second is OpenAI's."""

MAX_PROMPT_CHARACTERS = 2_000
"""Longest `prompt`, and longest `hotwords`."""

MAX_BEAM_SIZE = 10
MAX_SUPPRESSED = 100
"""Texts that may be named by `suppress`."""

MAX_TRACK = 99

Channels = Literal["mix", "split"]
TrackName = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]


@dataclass(frozen=True, kw_only=True)
class TranscriptionOptions:
    """How a recording is to be transcribed."""

    language: str | None = None
    """Whisper language code, `auto`, or None for the served artifact's own language."""
    task: Task | None = None
    """None means the served artifact's own task."""
    adapter: str | None = None
    """Name of the adapter, `none` for the base model alone, or None for the served one."""
    temperature: float = 0.0
    """0 takes the likeliest text; up to 1, words are drawn at random the more freely."""
    seed: int = 0
    """Start of the random draws."""
    prompt: str = ""
    """Spelling hints, or the text that came before."""
    beam_size: int | None = None
    """Texts kept side by side; 1 is greedy search, None takes 2 where the engine can."""
    hotwords: str = ""
    """Words that are likely to be said."""
    suppress: tuple[str, ...] = ()
    """Texts that are never written."""
    word_timestamps: bool = False
    """Also say when each word is spoken."""
    channels: Channels = "mix"
    """`mix` hears the recording's channels as one, `split` transcribes each on its own."""
    track: str | None = None
    """Audio track of a film: its number from 1, or its language; None hears the default one."""


class WireOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Every option by name, with what its value must be."""

    language: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None
    task: Literal["transcribe", "translate"] | None = None
    adapter: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARACTERS)] = ""
    beam_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BEAM_SIZE)] | None = None
    hotwords: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARACTERS)] = ""
    suppress: str | list[str] = ""
    word_timestamps: bool = False
    channels: Channels = "mix"
    track: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRACK)] | TrackName | None = None


OPTION_NAMES = frozenset(WireOptions.__struct_fields__)

KNOWN_OPTIONS = OPTION_NAMES.union(FORMAT_OPTIONS)
"""Those of the transcription, and of the answer's format."""

_MAY_BE_EMPTY = frozenset(("prompt", "hotwords", "suppress"))


def parse_options(
    values: Mapping[str, Any], *, strict: bool = False, base: TranscriptionOptions | None = None
) -> TranscriptionOptions:
    """Check options by name.

    Args:
        values: Name -> value; a text that is empty is no value, but for options that are texts themselves.
        strict: Whether numbers and flags must be numbers and flags, as in JSON; otherwise text such as `0.2`
            and `true` is read, as in a query or a form.
        base: Options that hold where `values` says nothing.

    Raises:
        UnsupportedOption: An option is unknown, or has an impossible value.
    """
    values = {name: value for name, value in values.items() if not _is_absent(name, value)}
    try:
        wire = msgspec.convert(values, WireOptions, strict=strict)
    except msgspec.ValidationError as error:
        raise option_refusal(str(error)) from error
    given = {name: getattr(wire, name) for name in values}
    if wire.language is not None:
        given["language"] = _language(wire.language)
    if wire.track is not None:
        given["track"] = _track(wire.track)
    if "suppress" in given:
        given["suppress"] = _suppressed(wire.suppress)
    return replace(base or TranscriptionOptions(), **given)


def _is_absent(name: str, value: Any) -> bool:
    """Tell whether an option is a field of a form, or of a page, that nobody filled in."""
    is_empty = isinstance(value, str) and not value.strip()
    return is_empty and name in OPTION_NAMES and name not in _MAY_BE_EMPTY


def _language(value: str) -> str:
    if value.strip().lower() == DETECT:
        return DETECT
    code = language_code(value)
    if code is None:
        raise UnsupportedOption(
            "language", f"'{value}' is no language of Whisper; give a code such as mr, or auto"
        )
    return code


def _track(value: str | int) -> str:
    """Return a track's number, or the code of its language where Whisper knows it."""
    named = str(value).strip().lower()
    if not named or (named.isdecimal() and not 1 <= int(named) <= MAX_TRACK):
        raise UnsupportedOption("track", f"'{named}' is no track; give its number, from 1, or its language")
    return language_code(named) or named


def _suppressed(value: str | list[str]) -> tuple[str, ...]:
    """Read texts from a list, or from text: a JSON list, or texts between commas."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = msgspec.json.decode(value, type=list[str])
        except msgspec.DecodeError as error:
            raise UnsupportedOption("suppress", f"is no JSON list of texts: {error}") from error
    texts = [text.strip() for text in value.split(",")] if isinstance(value, str) else value
    named = tuple(dict.fromkeys(text for text in texts if text))
    if len(named) > MAX_SUPPRESSED:
        raise UnsupportedOption("suppress", f"names {len(named)} texts; at most {MAX_SUPPRESSED} are taken")
    return named


def option_refusal(message: str) -> UnsupportedOption:
    """Turn msgspec's message, which ends in `$.name` or names an unknown field, into ours."""
    if unknown := re.search(r"unknown field `(.*)`", message):
        known = ", ".join(sorted(KNOWN_OPTIONS))
        return UnsupportedOption(unknown[1][:60], f"is unknown; the options are {known}")
    path = re.search(r" - at `\$\.(\w+)", message)
    reason = message.partition(" - at ")[0]
    return UnsupportedOption(path[1] if path else "?", reason[:1].lower() + reason[1:])
