"""Build a `TrainConfig` from a SageMaker job's hyperparameters and channels. All faults come together.

A hyperparameter is a key of the configuration (`epochs`, `augment.noise`), in JSON or plain text. Two more
belong to the container: `config` names the committed configuration to start from, and `include_base` says
whether the base model is stored in the artifact. Flags of the `train` verb override hyperparameters. The
channels `train`, `validation` and `test` replace the configuration's data, and `adapter` replaces
`continue_from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.reader import Given, Layer, convert
from serve.config.sources import flag_layer
from train.config import TrainConfig, environment_config, load_config
from train.errors import TrainConfigError
from train.sagemaker.job import TrainingJob, decode_hyperparameter

CONFIGS = Path(__file__).parents[1] / "configs"
DEFAULT_CONFIG = "whisper-base-mr"
CONFIG_VARIABLE = "TRAIN_CONFIG"
"""Environment variable that names the configuration if neither flag nor hyperparameter does."""
PLATFORM_PREFIXES = ("sagemaker_", "_tuning_")
"""Hyperparameters to ignore: those of the platform's SDK, and `_tuning_objective_metric` of tuning jobs."""

_OURS_TO_SET = ("output_dir", "checkpoint_dir", "publish_to")
_DATA_CHANNELS = {
    "train_data": ("train", "training"),
    "valid_data": ("validation", "valid"),
    "test_data": ("test",),
}
_ADAPTER_CHANNEL = "adapter"


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """The configuration of a job in a container."""

    train: TrainConfig
    include_base: bool | None
    """Store the base model in the artifact; null does so if the image does not hold it."""


def resolve_config(job: TrainingJob, flags: Mapping[str, Any], environ: Mapping[str, str]) -> ContainerConfig:
    """Build the configuration of a job.

    Args:
        flags: Flags of the `train` verb by name, `config` and `include_base` included.
        environ: May name a configuration as `TRAIN_CONFIG`, and hold values as `SHROTA_TRAIN_<KEY>`.

    Raises:
        TrainConfigError: Lists every fault.
    """
    faults: list[str] = []
    wanted: dict[str, Given] = {**_hyperparameters(job), **flag_layer(flags)}
    named, from_environment = environment_config(environ)
    chosen = wanted.pop("config", None)
    name = str((chosen and chosen.value) or environ.get(CONFIG_VARIABLE) or named or DEFAULT_CONFIG)
    include_base = None
    if (given := wanted.pop("include_base", None)) is not None:
        try:
            include_base = convert(given.value, bool)
        except ValueError as error:
            faults.append(f"{given.source}: {error}")
    for key in _OURS_TO_SET:
        if wanted.pop(key, None) is not None:
            faults.append(f"{key} cannot be chosen: SageMaker says where results and checkpoints lie")

    ours = {"output_dir": str(job.run_dir), "publish_to": None}
    if job.checkpoint_dir:
        ours["checkpoint_dir"] = str(job.checkpoint_dir)
    fixed = {key: Given(value, key) for key, value in ours.items()}
    try:
        config = load_config(_find_config(name), from_environment, _from_channels(job), wanted, fixed)
    except TrainConfigError as error:
        faults += error.faults
    if faults:
        raise TrainConfigError(faults)
    return ContainerConfig(train=config, include_base=include_base)


def _hyperparameters(job: TrainingJob) -> dict[str, Given]:
    """Read hyperparameters: JSON strings and lists are decoded, everything else stays text."""
    found: dict[str, Given] = {}
    for name, text in job.hyperparameters.items():
        if not name.startswith(PLATFORM_PREFIXES):
            decoded = decode_hyperparameter(text)
            value = decoded if isinstance(decoded, (str, list)) else text
            found[name.replace("-", "_")] = Given(value, f"hyperparameter {name}")
    return found


def _from_channels(job: TrainingJob) -> Layer:
    """Return the data keys that the job's channels replace; none without a training channel."""
    given = {
        key: [f"channel:{name}" for name in names if name in job.channels]
        for key, names in _DATA_CHANNELS.items()
    }
    values: dict[str, Any] = given if given["train_data"] else {}
    if _ADAPTER_CHANNEL in job.channels:
        values = {**values, "continue_from": str(job.channels[_ADAPTER_CHANNEL])}
    return {key: Given(value, f"{key} of the channels") for key, value in values.items()}


def _find_config(name: str) -> Path:
    """Return the file of a configuration, given by its path or as the name of a committed one.

    Raises:
        TrainConfigError: There is no such configuration.
    """
    committed = CONFIGS / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and committed.is_file():
        return committed
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise TrainConfigError([f"config '{name}' is neither a file nor one of {known}"])
