"""A SageMaker job's hyperparameters and channels -> `TrainConfig`. All faults come together.

A hyperparameter is a key of the configuration (`epochs`, `augment.noise`), JSON or plain text; two more
belong to the container: `config` names the committed configuration to start from, and `include_base` says
whether the base model goes into the artifact. Flags of the `train` verb win over hyperparameters. Channels
named `train`, `validation` and `test` replace the data that the configuration names, `adapter` what it
continues from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config import TrainConfig, load_config
from train.errors import TrainConfigError
from train.sagemaker.job import TrainingJob, decode_hyperparameter

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_CONFIG = "whisper-base-mr"
CONFIG_VARIABLE = "TRAIN_CONFIG"
"""Environment variable that names the configuration where neither flag nor hyperparameter does."""
PLATFORM_PREFIXES = ("sagemaker_", "_tuning_")
"""Hyperparameters that are none of ours: of the platform's SDK, and `_tuning_objective_metric` of tuning
jobs."""

_OURS_TO_SET = ("output_dir", "checkpoint_dir", "publish_to")
_DATA_CHANNELS = {
    "train_data": ("train", "training"),
    "valid_data": ("validation", "valid"),
    "test_data": ("test",),
}
_ADAPTER_CHANNEL = "adapter"


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """What a job asks for."""

    train: TrainConfig
    include_base: bool | None
    """Whether the base model goes into the artifact; None: where the image does not hold it."""


def resolve_config(job: TrainingJob, arguments: Sequence[str], environ: Mapping[str, str]) -> ContainerConfig:
    """Return the configuration of a job.

    Args:
        job: the job.
        arguments: flags behind the `train` verb: `--config NAME`, `--key value`, `--key=value`.
        environ: may name a configuration as `TRAIN_CONFIG`.

    Raises:
        TrainConfigError: with every fault found.
    """
    faults: list[str] = []
    wanted = _hyperparameters(job)
    wanted |= _flags(arguments, faults)
    name = str(wanted.pop("config", None) or environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)
    include_base = wanted.pop("include_base", None)
    if include_base is not None and not isinstance(include_base, bool):
        faults.append(f"include_base is {include_base!r}; it is true or false")
    for key in _OURS_TO_SET:
        if wanted.pop(key, None) is not None:
            faults.append(f"{key} cannot be chosen: SageMaker says where results and checkpoints lie")

    values = {**_from_channels(job), **wanted, "output_dir": str(job.run_dir), "publish_to": None}
    if job.checkpoint_dir:
        values["checkpoint_dir"] = str(job.checkpoint_dir)
    try:
        config = load_config(_find_config(name), [f"--{key}={json.dumps(v)}" for key, v in values.items()])
    except TrainConfigError as error:
        faults += error.faults
    if faults:
        raise TrainConfigError(faults)
    return ContainerConfig(train=config, include_base=include_base)


def _hyperparameters(job: TrainingJob) -> dict[str, Any]:
    return {
        _key(name): decode_hyperparameter(text)
        for name, text in job.hyperparameters.items()
        if not name.startswith(PLATFORM_PREFIXES)
    }


def _flags(arguments: Sequence[str], faults: list[str]) -> dict[str, Any]:
    """Return `--key value` and `--key=value` as values, read as hyperparameters are."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        if not name.startswith("--"):
            faults.append(f"'{name}' is not an option; options are written --key value")
        elif not equals and not rest:
            faults.append(f"{name} lacks its value")
        else:
            found[_key(name[2:])] = decode_hyperparameter(text if equals else rest.pop(0))
    return found


def _key(name: str) -> str:
    return name.replace("-", "_")


def _from_channels(job: TrainingJob) -> dict[str, Any]:
    """Return the data keys that the job's channels stand for; without such channels, the file's own hold."""
    given = {
        key: [f"channel:{name}" for name in names if name in job.channels]
        for key, names in _DATA_CHANNELS.items()
    }
    values: dict[str, Any] = given if given["train_data"] else {}
    if _ADAPTER_CHANNEL in job.channels:
        values = {**values, "continue_from": str(job.channels[_ADAPTER_CHANNEL])}
    return values


def _find_config(name: str) -> Path:
    """Return the file of a configuration that is named by its path, or as a committed one.

    Raises:
        TrainConfigError: there is none.
    """
    committed = CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and committed.is_file():
        return committed
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise TrainConfigError([f"config '{name}' is no file and none of {known}"])
