"""Turn a YAML file and command-line overrides into one `TrainConfig`, and back. All faults come together."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import yaml

from train.config.training import TrainConfig
from train.errors import TrainConfigError


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of a YAML file with `--key value` (or `--key=value`) overrides.

    Nested keys are written with a dot (`--augment.noise 0.3`); dashes and underscores are the same.
    Relative paths are relative to the working directory.

    Raises:
        TrainConfigError: with every fault found.
    """
    try:
        values = yaml.safe_load(path.read_bytes())  # by its mark, where it has one
    except OSError as error:
        raise TrainConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise TrainConfigError([f"{path} is not YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise TrainConfigError([f"{path} does not hold keys and values"])
    faults: list[str] = []
    for key, text in _parse_overrides(overrides, faults):
        section, _, leaf = key.rpartition(".")
        target = values.setdefault(section, {}) if section else values
        if not isinstance(target, dict):
            faults.append(f"--{key}: '{section}' is no section of the configuration")
            continue
        try:
            target[leaf] = yaml.safe_load(text)
        except yaml.YAMLError:
            target[leaf] = text
    known = _convert(TrainConfig, values, "", faults)
    try:
        # What is missing or unreadable is reported already: anything stands in, to have the rest checked.
        config = TrainConfig(**{"name": "", "output_dir": Path(), "train_data": ("-.jsonl",), **known})
    except TrainConfigError as error:
        faults += error.faults
    if faults:
        raise TrainConfigError(faults)
    return config


def describe_keys(cls: type = TrainConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (option, default, explanation) for every key of the configuration, in the order of its fields.

    The explanations are the strings that stand below the fields in this file.
    """
    body = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    said = {
        line.target.id: inspect.cleandoc(str(below.value.value))
        for line, below in itertools.pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
    hints = typing.get_type_hints(cls)
    keys: list[tuple[str, str, str]] = []
    for item in fields(cls):
        if dataclasses.is_dataclass(hints[item.name]):
            keys += describe_keys(typing.cast(type, hints[item.name]), f"{item.name}.")
        else:
            default = "required" if item.default is dataclasses.MISSING else _as_option(item.default)
            choices = typing.get_args(hints[item.name]) if _is_choice(hints[item.name]) else ()
            told = [*said[item.name].split(), *([f"({' | '.join(choices)})"] if choices else [])]
            keys.append((f"--{prefix}{item.name}", default, " ".join(told)))
    return keys


def _is_choice(kind: Any) -> bool:
    return typing.get_origin(kind) is Literal


def _as_option(value: Any) -> str:
    if value is None:
        return "null"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def dump_config(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def _parse_overrides(arguments: Sequence[str], faults: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            faults.append(f"'{argument}' is not an option; options are written --key value")
            continue
        key, equals, text = argument[2:].partition("=")
        if not equals:
            if not rest:
                faults.append(f"--{key} lacks its value")
                continue
            text = rest.pop(0)
        pairs.append((key.replace("-", "_"), text))
    return pairs


def _convert(cls: type, values: Mapping[str, Any], prefix: str, faults: list[str]) -> dict[str, Any]:
    """Check keys and types of one dataclass; faults are collected, not raised."""
    hints = typing.get_type_hints(cls)
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            faults.append(f"unknown key '{prefix}{key}'")
            continue
        try:
            known[key] = _coerce(hints[key], value, f"{prefix}{key}", faults)
        except (TypeError, ValueError, OverflowError):
            faults.append(f"'{prefix}{key}' is {value!r}; expected {_type_name(hints[key])}")
    for item in fields(cls):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in values:
            faults.append(f"'{prefix}{item.name}' is missing")
    return known


def _coerce(kind: Any, value: Any, name: str, faults: list[str]) -> Any:
    """Return `value` as `kind`; raises TypeError or ValueError where it is not one."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _coerce(arguments[0], value, name, faults)
    if _is_choice(kind):
        if value not in arguments:
            raise ValueError
        return value
    if origin is tuple:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = [value]  # a list of one number, as written on the command line
        items = [part for part in value.split(",") if part] if isinstance(value, str) else list(value)
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_coerce(kind, item, name, faults) for kind, item in zip(kinds, items, strict=True))
    if dataclasses.is_dataclass(kind):
        known = _convert(typing.cast(type, kind), dict(value), f"{name}.", faults)
        return typing.cast(Any, kind)(**known)
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if kind in (int, float):
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError
        return kind(number)
    if kind is Path:
        return Path(value)
    if not isinstance(value, str):
        raise TypeError
    return value


def _type_name(kind: Any) -> str:
    arguments = typing.get_args(kind)
    if _is_choice(kind):
        return "one of " + ", ".join(map(str, arguments))
    return getattr(kind, "__name__", str(kind)) if not arguments else str(kind).replace("pathlib.", "")
