"""Frozen dataclasses as command lines: every field is a flag, its docstring the help. Knows no program.

`serve.config.settings` reads variables of the environment besides; the launchers have flags alone.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from serve.errors import ConfigError

T = TypeVar("T")


def parse_flags(cls: type[T], arguments: Sequence[str], *, program: str, about: str, examples: str) -> T:
    """Return a dataclass whose fields are what the flags say; a field of several values takes its flag again.

    Raises:
        ConfigError: Lists every flag that is wrong or missing, and every contradiction.
        SystemExit: The arguments ask for help (0), or cannot be parsed at all (2).
    """
    given = vars(_parser(cls, program, about, examples).parse_args(arguments))
    hints, faults, values = get_type_hints(cls), [], {}
    for spec in dataclasses.fields(typing.cast(Any, cls)):
        texts = given[spec.name]
        if texts is None:
            if spec.default is dataclasses.MISSING:
                faults.append(f"{flag_of(spec.name)} is missing")
            continue
        try:
            values[spec.name] = (
                tuple(texts) if isinstance(texts, list) else read_value(texts, hints[spec.name])
            )
        except ValueError as error:
            faults.append(f"{flag_of(spec.name)}: {error}")
    if not any(fault.endswith("is missing") for fault in faults):
        try:
            parsed = cls(**values)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return parsed


def read_value(text: str, hint: Any) -> Any:
    """Read text as a value of a field's type.

    Raises:
        ValueError: With what was expected.
    """
    if get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"'{text}' is none of {', '.join(get_args(hint))}")
        return text
    if hint is bool:
        if text.lower() in ("true", "1", "yes", "on"):
            return True
        if text.lower() in ("false", "0", "no", "off"):
            return False
        raise ValueError(f"'{text}' is neither true nor false")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"'{text}' is not {kind}") from None
    return hint(text)


def add_flag(
    parser: argparse._ActionsContainer,
    name: str,
    text: str,
    *,
    switch: bool = False,
    bare: bool = False,
    several: bool = False,
) -> None:
    """Add the flag of a field, with its help; values stay text, for whoever reads them to check.

    Args:
        parser: Or a group of one.
        name: Of the field.
        text: Its help.
        switch: It is on without a value, and may have one.
        bare: A switch has no value: for programs whose other arguments it might swallow.
        several: It may be given several times.
    """
    more: dict[str, Any] = {"metavar": "VALUE", "action": "append" if several else "store"}
    if switch:
        more = {"action": "store_const", "const": "true"} if bare else {**more, "nargs": "?", "const": "true"}
    parser.add_argument(flag_of(name), help=text.replace("%", "%%"), **more)


def flag_of(name: str) -> str:
    """Return the flag of a field."""
    return "--" + name.replace("_", "-")


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, so that --help says what the source says."""
    (body,) = (
        node.body for node in ast.walk(ast.parse(inspect.getsource(cls))) if isinstance(node, ast.ClassDef)
    )
    return {
        before.target.id: " ".join(str(after.value.value).split())
        for before, after in itertools.pairwise(body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def read_pairs(texts: Sequence[str], flag: str, faults: list[str]) -> dict[str, str]:
    """Return `NAME=VALUE` texts as a dictionary; what is not so written is added to `faults`."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            faults.append(f"{flag} '{text}' is not written NAME=VALUE")
        elif name in pairs:
            faults.append(f"{flag} names '{name}' twice")
        pairs[name] = value
    return pairs


def _parser(cls: type, program: str, about: str, examples: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints, docs = get_type_hints(cls), field_docs(cls)
    for spec in dataclasses.fields(cls):
        several = get_origin(hints[spec.name]) is tuple
        switch = hints[spec.name] is bool
        default = "required" if spec.default is dataclasses.MISSING else f"default {_shown(spec.default)}"
        add_flag(parser, spec.name, f"{docs[spec.name]} [{default}]", switch=switch, several=several)
    return parser


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default in (None, ()) else str(default)
