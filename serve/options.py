"""The options of a transcription, and their validation. Knows no HTTP: options come as a plain mapping."""

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
"""Value of `adapter` for the base model alone."""

DETECT = "auto"
"""Value of `language` for detection, whatever the artifact's language is."""

FORMAT_OPTIONS = ("format", "response_format")
"""Names of the option for the response format (`serve.transcript.formats`); the second is OpenAI's."""

MAX_PROMPT_CHARACTERS = 2_000
"""Longest `prompt`, longest `hotwords`, and most of all texts in `suppress`, in letters."""

MAX_BEAM_SIZE = 10
MAX_SUPPRESSED = 100
"""Most texts in `suppress`."""

MAX_LISTED_CHARACTERS = 8 * MAX_PROMPT_CHARACTERS
"""Longest `suppress` as one text: in a JSON list, `\\u0915` may stand for a letter."""

MAX_REASON_CHARACTERS = 300
"""Most of msgspec's message that a refusal repeats, as it may hold the whole value."""

MAX_TRACK = 99

Channels = Literal["mix", "split"]
TrackName = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
ListedText = Annotated[str, msgspec.Meta(max_length=MAX_LISTED_CHARACTERS)]
SuppressedText = Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARACTERS)]


@dataclass(frozen=True, kw_only=True)
class TranscriptionOptions:
    """How to transcribe a recording."""

    language: str | None = None
    """Whisper language code, `auto`, or None for the served artifact's own language."""
    task: Task | None = None
    """None takes the served artifact's own task."""
    adapter: str | None = None
    """Name of an adapter; `none` is the base model alone, and None the served adapter."""
    temperature: float = 0.0
    """0 takes the likeliest text; above 0, up to 1, tokens are drawn at random."""
    seed: int = 0
    """Seed of the random draws."""
    prompt: str = ""
    """Spelling hints, or the preceding text."""
    beam_size: int | None = None
    """Beams kept per step; 1 is greedy search. None takes 2 where the engine supports it."""
    hotwords: str = ""
    """Words that are likely to be spoken."""
    suppress: tuple[str, ...] = ()
    """Texts that the model must not emit."""
    word_timestamps: bool = False
    """Also return the times of words."""
    channels: Channels = "mix"
    """`mix` transcribes the channels as one, `split` each on its own."""
    track: str | None = None
    """Audio track of a film, by number from 1 or by language; None takes the default one."""


class WireOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Every option, with the type of its value."""

    language: Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None = None
    task: Literal["transcribe", "translate"] | None = None
    adapter: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARACTERS)] = ""
    beam_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BEAM_SIZE)] | None = None
    hotwords: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT_CHARACTERS)] = ""
    suppress: ListedText | list[SuppressedText] = ""
    word_timestamps: bool = False
    channels: Channels = "mix"
    track: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRACK)] | TrackName | None = None


OPTION_NAMES = frozenset(WireOptions.__struct_fields__)

KNOWN_OPTIONS = OPTION_NAMES.union(FORMAT_OPTIONS)
"""Options of the transcription and of the response format."""

_MAY_BE_EMPTY = frozenset(("prompt", "hotwords", "suppress"))


def parse_options(
    values: Mapping[str, Any], *, strict: bool = False, base: TranscriptionOptions | None = None
) -> TranscriptionOptions:
    """Parse and check options.

    Args:
        values: Name -> value; an empty text counts as missing, except for options that are texts.
        strict: Whether numbers and flags must have JSON's types; otherwise text such as `0.2` and `true` is
            accepted, as in a query or a form.
        base: Defaults for options that `values` lacks.

    Raises:
        UnsupportedOption: An option is unknown, or its value invalid.
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
    """Tell whether an option is an empty field of a form."""
    is_empty = isinstance(value, str) and not value.strip()
    return is_empty and name in OPTION_NAMES and name not in _MAY_BE_EMPTY


def _language(value: str) -> str:
    if value.strip().lower() == DETECT:
        return DETECT
    code = language_code(value)
    if code is None:
        raise UnsupportedOption(
            "language", f"'{value}' is not a language of Whisper; give a code such as mr, or auto"
        )
    return code


def _track(value: str | int) -> str:
    """Return a track's number, or Whisper's code of its language, or the language as it is written."""
    named = str(value).strip().lower()
    if not named or (named.isdecimal() and not 1 <= int(named) <= MAX_TRACK):
        raise UnsupportedOption(
            "track", f"'{named}' is not a track; give its number, from 1, or its language"
        )
    return language_code(named) or named


def _suppressed(value: str | list[str]) -> tuple[str, ...]:
    """Read a list, a JSON list as text, or comma-separated texts."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = msgspec.json.decode(value, type=list[str])
        except msgspec.DecodeError as error:
            raise UnsupportedOption("suppress", f"is not a JSON list of texts: {error}") from error
    texts = [text.strip() for text in value.split(",")] if isinstance(value, str) else value
    named = tuple(dict.fromkeys(text for text in texts if text))
    if len(named) > MAX_SUPPRESSED:
        raise UnsupportedOption("suppress", f"names {len(named)} texts; at most {MAX_SUPPRESSED} are taken")
    if (n_characters := sum(map(len, named))) > MAX_PROMPT_CHARACTERS:
        raise UnsupportedOption(
            "suppress", f"has {n_characters} letters; its texts may have {MAX_PROMPT_CHARACTERS} together"
        )
    return named


def option_refusal(message: str) -> UnsupportedOption:
    """Turn msgspec's message (it ends in `$.name` or names an unknown field) into an `UnsupportedOption`."""
    if unknown := re.search(r"unknown field `(.*)`", message):
        known = ", ".join(sorted(KNOWN_OPTIONS))
        return UnsupportedOption(unknown[1][:60], f"is unknown; the options are {known}")
    path = re.search(r" - at `\$\.(\w+)", message)
    reason = message.partition(" - at ")[0][:MAX_REASON_CHARACTERS]
    return UnsupportedOption(path[1] if path else "?", reason[:1].lower() + reason[1:])
