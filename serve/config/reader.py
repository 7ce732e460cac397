"""Read values from a file, the environment and flags into one frozen dataclass, reporting all faults at once.

A program's settings are a frozen dataclass, whose attribute docstrings are its help. Each source of values
(`serve.config.sources`) gives a layer, which maps keys to values and to how a person would name them there.
Later layers override earlier ones, and `read_dataclass` builds the dataclass. Knows no program.

pydantic-settings does most of this, but its import takes a good part of the second between the service's
start and its first answer. It also skips the rules of `__post_init__` if any value is unreadable, so that
people would see their faults in two rounds.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from serve.errors import ConfigError

T = TypeVar("T")

MASK = "********"
"""Shown in place of a secret."""

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_NONE = ("null", "none", "")


class Secret:
    """Text that no repr, help, fault or dump shows; `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._text,)


@dataclasses.dataclass(frozen=True)
class Given:
    """A value as given: text, or what YAML, TOML or JSON parsed it to."""

    value: Any
    source: str
    """Its name in a fault: `--port`, `SHROTA_PORT`, `port in settings.yaml`."""


Layer = Mapping[str, Given]
"""Key -> the value that one source gives. Keys of a nested dataclass follow its own with a dot."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """A field of a dataclass, or of a dataclass nested in it."""

    name: str
    """Such as `port` or `augment.noise`."""
    kind: Any
    """The resolved type."""
    default: Any
    """The default; `dataclasses.MISSING` where the field is required."""
    about: str
    """The field's docstring on one line."""

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    @property
    def has_many(self) -> bool:
        return get_origin(_present(self.kind)) is tuple

    @property
    def is_path(self) -> bool:
        return _present(self.kind) is Path

    @property
    def is_secret(self) -> bool:
        return _present(self.kind) is Secret

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of the field or its items; empty where they cannot be listed."""
        kind = _present(self.kind)
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
        return get_args(kind) if get_origin(kind) is Literal else ()


def keys_of(cls: type) -> dict[str, Key]:
    """Return the keys of a dataclass by name, those of nested dataclasses after a dot."""
    return _keys_of(typing.cast(Hashable, cls), "")


@cache
def _keys_of(cls: Hashable, prefix: str) -> dict[str, Key]:
    assert isinstance(cls, type)
    hints, docs = get_type_hints(cls), field_docs(cls)
    keys: dict[str, Key] = {}
    for field in dataclasses.fields(cls):
        kind, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            keys |= _keys_of(typing.cast(Hashable, kind), f"{name}.")
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        keys[name] = Key(name=name, kind=kind, default=default, about=docs.get(field.name, ""))
    return keys


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, inherited ones too, on one line, as help."""
    docs: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if dataclasses.is_dataclass(each)]):
        tree = ast.parse(inspect.getsource(each))
        (body,) = (node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
        docs |= {
            before.target.id: " ".join(str(after.value.value).split())
            for before, after in itertools.pairwise(body)
            if isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        }
    return docs


def read_dataclass(
    cls: type[T],
    layer: Layer,
    faults: list[str],
    *,
    names: Mapping[str, str] | None = None,
    stand_ins: Mapping[str, Any] | None = None,
) -> T | None:
    """Build a dataclass from a layer; None where there are faults.

    Args:
        cls: Frozen dataclass whose `__post_init__` raises `ConfigError` for contradictions.
        layer: The given values. Unknown keys are faults.
        faults: Every fault is appended to it.
        names: What faults call missing keys, such as `--name`; by default the key itself.
        stand_ins: Values used in place of missing ones, so that `__post_init__` can check the others. Without
            them, its rules are checked only if nothing is missing.
    """
    faults_before = len(faults)
    keys, values, unreadable = keys_of(cls), {}, set()
    for name, given in layer.items():
        if name not in keys:
            is_empty_section = given.value is None and any(key.startswith(f"{name}.") for key in keys)
            if not is_empty_section:
                faults.append(f"{given.source} is unknown{nearest(name, keys)}")
            continue
        try:
            values[name] = convert(given.value, keys[name].kind)
        except (TypeError, ValueError, OverflowError) as error:
            unreadable.add(name)
            shown = error if not keys[name].is_secret else "is not a value that it can take"
            faults.append(f"{given.source}: {shown}")
    missing = [n for n, key in keys.items() if key.default is dataclasses.MISSING and n not in layer]
    faults += [f"{(names or {}).get(name, name)} is missing" for name in missing]
    needed = {name for name in (*missing, *unreadable) if keys[name].default is dataclasses.MISSING}
    built = None
    if needed <= set(stand_ins or ()):
        try:
            built = _build(cls, {**{name: (stand_ins or {})[name] for name in needed}, **values})
        except ConfigError as error:
            faults += error.faults
    return built if len(faults) == faults_before else None


def read_or_raise(cls: type[T], layer: Layer, names: Mapping[str, str] | None = None) -> T:
    """Build a dataclass from a layer.

    Raises:
        ConfigError: Lists every fault.
    """
    faults: list[str] = []
    built = read_dataclass(cls, layer, faults, names=names)
    if built is None:
        raise ConfigError(faults)
    return built


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass, and those nested in it, from values by dotted key."""
    hints = get_type_hints(cls)
    own = {name: value for name, value in values.items() if "." not in name}
    for section in {name.partition(".")[0] for name in values if "." in name}:
        below = {
            name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{section}.")
        }
        own[section] = _build(hints[section], below)
    return cls(**own)


def convert(value: Any, kind: Any) -> Any:
    """Convert a value, or its text form, to a field's type.

    Raises:
        ValueError: Says what was expected.
    """
    if get_origin(kind) in (typing.Union, types.UnionType):
        missing = value is None or (isinstance(value, str) and value.strip().lower() in _NONE)
        return None if missing else convert(value, _present(kind))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"'{value}' is not one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        return _convert_many(value, get_args(kind))
    if kind is bool:
        return _convert_switch(value)
    if kind in (int, float):
        return _convert_number(value, kind)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return kind(value)


def _present(kind: Any) -> Any:
    """Return a type without its None."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    return kind


def _convert_many(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Convert a list, or comma-separated text with or without brackets."""
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        value = [part.strip().strip("'\"") for part in text.split(",") if part.strip()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{value!r} is not a list")
    n_kinds = len(value) if kinds[-1] is Ellipsis else len(kinds)
    if len(value) != n_kinds:
        raise ValueError(f"{len(value)} values are given where {n_kinds} are needed")
    each = [kinds[0]] * n_kinds if kinds[-1] is Ellipsis else kinds
    return tuple(convert(item, kind) for item, kind in zip(value, each, strict=True))


def _convert_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
        return value.strip().lower() in _TRUE
    raise ValueError(f"'{value}' is neither true nor false")


def _convert_number(value: Any, kind: type) -> Any:
    """Convert a finite number; integers may be written with an exponent."""
    refusal = ValueError(f"'{value}' is not a {'whole ' if kind is int else ''}number")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refusal
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise refusal from None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        raise refusal
    return kind(number)


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a hint at the known name closest to a wrong one; empty where none is close.

    All names start with `prefix`, which does not count for closeness.
    """
    found = difflib.get_close_matches(
        name.removeprefix(prefix), [each.removeprefix(prefix) for each in known], n=1
    )
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def shown_default(key: Key) -> str:
    """Return a key's default as people write it."""
    if key.default is dataclasses.MISSING:
        return "required"
    if key.is_secret and key.default is not None:
        return MASK
    if isinstance(key.default, bool):
        return str(key.default).lower()
    if isinstance(key.default, tuple):
        return ",".join(map(str, key.default)) or "none"
    return "none" if key.default in (None, "") else str(key.default)


def read_pairs(texts: Iterable[str], flag: str, faults: list[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` texts into a dictionary; malformed ones are appended to `faults`."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            faults.append(f"{flag} '{text}' is not written NAME=VALUE")
        elif name in pairs:
            faults.append(f"{flag} names '{name}' twice")
        pairs[name] = value
    return pairs
