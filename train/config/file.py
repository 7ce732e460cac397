"""Read a `TrainConfig` from a file, environment and flags, and write it as YAML. All faults come together.

The variable of a key is `SHROTA_TRAIN_<KEY>` (for a nested one `SHROTA_TRAIN_AUGMENT_NOISE`), its flag
`--<key>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from serve.config.reader import Layer, keys_of, read_dataclass
from serve.config.sources import TRAINING_PREFIX, environment_layer, file_layer, plain_values, variable_of
from train.config.training import TrainConfig
from train.errors import TrainConfigError

_STAND_INS = {"name": "", "output_dir": Path(), "train_data": ("-.jsonl",)}
"""Values used in place of missing required keys, so that the others can be checked."""


def load_config(path: Path | None, *layers: Layer) -> TrainConfig:
    """Read the configuration from a YAML or TOML file and from layers that override it.

    Relative paths are relative to the working directory.

    Args:
        layers: Layers from `serve.config.sources`, each overriding those before it.

    Raises:
        TrainConfigError: Lists every fault.
    """
    faults: list[str] = []
    merged = dict(file_layer(path, faults)) if path else {}
    if faults:  # the keys of an unreadable file would all be reported as missing
        raise TrainConfigError(faults)
    for layer in layers:
        merged |= layer
    config = read_dataclass(TrainConfig, merged, faults, stand_ins=_STAND_INS)
    if config is None:
        raise TrainConfigError(faults)
    return config


def environment_config(environ: Mapping[str, str]) -> tuple[str | None, Layer]:
    """Return the file and the values that `SHROTA_TRAIN_*` variables name."""
    path = environ.get(variable_of("config", TRAINING_PREFIX), "").strip() or None
    return path, environment_layer(environ, keys_of(TrainConfig), TRAINING_PREFIX)


def dump_config(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back; secrets are left out."""
    return yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True)
