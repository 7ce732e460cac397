"""Where settings come from: a YAML or TOML file, the environment, flags -> layers for `serve.config.reader`.

Merged in this order, the later ones win. Environments are filled by others too: Kubernetes sets
`SHROTA_SERVICE_HOST`, `SHROTA_PORT=tcp://10.3.2.1:8080` and more in every container beside a service named
shrota. Variables of that shape are passed over; other unknown ones are worth a warning, never a refusal.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serve.config.reader import Given, Key, Layer, Secret, nearest

PREFIX = "SHROTA_"
"""Of every variable of ours."""
TRAINING_PREFIX = "SHROTA_TRAIN_"
"""Of those of training, which serving passes over."""

_PLATFORM_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")
_PLATFORM_VALUE = re.compile(r"(tcp|udp|sctp)://")


def file_layer(path: Path, faults: list[str]) -> Layer:
    """Return what a file holds, its sections with dots; what cannot be read is added to `faults`."""
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
    """Return what variables say. Empty ones say nothing; those that a platform sets are passed over."""
    variables = {variable_of(name, prefix): name for name in keys}
    return {
        variables[variable]: Given(value.strip(), variable)
        for variable, value in environ.items()
        if variable in variables and value.strip() and not _set_by_platform(variable, value)
    }


def flag_layer(flags: Mapping[str, Any], own: Iterable[str] = ()) -> Layer:
    """Return what flags say, but for a program's `own`, which are no settings."""
    return {name: Given(value, flag_of(name)) for name, value in flags.items() if name not in set(own)}


def unknown_variables(
    environ: Mapping[str, str], keys: Iterable[str], prefix: str = PREFIX, passed_over: Iterable[str] = ()
) -> list[str]:
    """Return a sentence for each variable with our prefix that is none of ours, naming the nearest that is.

    Args:
        environ: The environment.
        keys: Keys that have variables.
        prefix: Of the variables to look at.
        passed_over: Prefixes and names of others, which this program does not read.
    """
    known = [variable_of(name, prefix) for name in keys]
    return [
        f"{variable} is no setting and has no effect{nearest(variable, known, prefix)}"
        for variable, value in sorted(environ.items())
        if variable.startswith(prefix) and variable not in known
        if not variable.startswith(tuple(passed_over)) and not _set_by_platform(variable, value)
    ]


def variable_of(name: str, prefix: str = PREFIX) -> str:
    """Return the variable of a key."""
    return prefix + name.replace(".", "_").upper()


def flag_of(name: str) -> str:
    """Return the flag of a key."""
    return "--" + name.replace("_", "-")


def flag_names(keys: Mapping[str, Key]) -> dict[str, str]:
    """Return the flags of keys, by which a fault names those that are missing."""
    return {name: flag_of(name) for name in keys}


def plain_values(config: Any) -> dict[str, Any]:
    """Return a dataclass as values that YAML and TOML can hold, its secrets left out."""
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
    """Tell whether a variable has the shape of those that Kubernetes and Docker set for a service's name."""
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
    """Return what YAML or TOML holds, behind a byte order mark or without one.

    Raises:
        ValueError: It is neither; the rest of a sentence that begins with the path.
    """
    if path.suffix.lower() == ".toml":
        import tomllib

        try:
            return tomllib.loads(content.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"is not TOML: {error}") from error
    import yaml

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from error
