"""Read layers for `serve.config.reader` from a YAML or TOML file, the environment, and flags.

Later sources override earlier ones, in this order. Platforms also set variables: Kubernetes sets
`SHROTA_SERVICE_HOST`, `SHROTA_PORT=tcp://10.3.2.1:8080` and more in every container beside a service named
shrota. Variables of that shape are ignored; other unknown ones give a warning, never an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serve.config.reader import Given, Key, Layer, Secret, nearest

PREFIX = "SHROTA_"
"""Prefix of all variables of this project."""
TRAINING_PREFIX = "SHROTA_TRAIN_"
"""Prefix of training's variables, which serving ignores."""

_PLATFORM_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")
_PLATFORM_VALUE = re.compile(r"(tcp|udp|sctp)://")


def file_layer(path: Path, faults: list[str]) -> Layer:
    """Read a settings file, sections joined by dots; faults are appended to `faults`."""
    try:
        values = _parse(path, path.read_bytes())
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror}")
        return {}
    except ValueError as error:
        faults.append(f"{path} {error}")
        return {}
    if values is None:
        return {}
    if not isinstance(values, dict):
        faults.append(f"{path} does not hold keys and values")
        return {}
    return {
        name: Given(value, f"{name} in {path}")
        for name, value in _flattened({str(key): value for key, value in values.items()}).items()
    }


def environment_layer(
    environ: Mapping[str, str], keys: Iterable[str], prefix: str = PREFIX
) -> dict[str, Given]:
    """Read the keys' variables. Empty ones, and those that a platform sets, are ignored."""
    variables = {variable_of(name, prefix): name for name in keys}
    return {
        variables[variable]: Given(value.strip(), variable)
        for variable, value in environ.items()
        if variable in variables and value.strip() and not _set_by_platform(variable, value)
    }


def flag_layer(flags: Mapping[str, Any], own: Iterable[str] = ()) -> Layer:
    """Turn flags into a layer, except a program's `own`, which are not settings."""
    return {name: Given(value, flag_of(name)) for name, value in flags.items() if name not in set(own)}


def unknown_variables(
    environ: Mapping[str, str], keys: Iterable[str], prefix: str = PREFIX, passed_over: Iterable[str] = ()
) -> list[str]:
    """Return a warning for each unknown variable, with the nearest known name.

    Args:
        keys: Keys that have variables.
        prefix: Prefix of the variables to check.
        passed_over: Prefixes and names of variables that other programs read.
    """
    known = [variable_of(name, prefix) for name in keys]
    return [
        f"{variable} is not a setting and has no effect{nearest(variable, known, prefix)}"
        for variable, value in sorted(environ.items())
        if variable.startswith(prefix) and variable not in known
        if not variable.startswith(tuple(passed_over)) and not _set_by_platform(variable, value)
    ]


def variable_of(name: str, prefix: str = PREFIX) -> str:
    """Return the environment variable of a key."""
    return prefix + name.replace(".", "_").upper()


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def flag_names(keys: Mapping[str, Key]) -> dict[str, str]:
    """Return key -> flag, for faults about missing keys."""
    return {name: flag_of(name) for name in keys}


def plain_values(config: Any) -> dict[str, Any]:
    """Return a dataclass as values for YAML or TOML, without its secrets."""
    return {
        field.name: _plain(value)
        for field in dataclasses.fields(config)
        if not isinstance(value := getattr(config, field.name), Secret)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain_values(value)
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _set_by_platform(variable: str, value: str) -> bool:
    """Tell whether a variable looks like those that Kubernetes and Docker set for a service's name."""
    if _PLATFORM_NAME.search(variable):
        return True
    return variable.endswith("_PORT") and bool(_PLATFORM_VALUE.match(value.strip()))


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flattened({str(key): item for key, item in value.items()}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _parse(path: Path, content: bytes) -> Any:
    """Parse YAML or TOML, with or without a byte order mark.

    Raises:
        ValueError: The content is malformed; the message continues a sentence that starts with the path.
    """
    if path.suffix.lower() == ".toml":
        import tomllib

        try:
            return tomllib.loads(content.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"is not TOML: {error}") from error
    import yaml

    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"is not YAML: {error}") from error
