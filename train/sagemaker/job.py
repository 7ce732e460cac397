"""Read the files and channels that SageMaker provides below /opt/ml, as a `TrainingJob`.

    input/config/hyperparameters.json    a flat map of strings, often JSON in a string
    input/config/resourceconfig.json     the hosts, and which of them this is
    input/config/inputdataconfig.json    the channels
    input/config/checkpointconfig.json   the directory that is mirrored to S3
    input/data/NAME/                     a channel
    model/, output/data/, output/failure the results

All files may be missing, as for `docker run IMAGE train` on a laptop.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve.model.junk import is_junk
from train.errors import TrainConfigError

_LAPTOP = "localhost"


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training job as one of its hosts sees it."""

    base_dir: Path
    """`/opt/ml`, or a directory in its place."""
    hyperparameters: dict[str, str] = field(default_factory=dict)
    """Names and values, all strings."""
    channels: dict[str, Path] = field(default_factory=dict)
    """Directory of each input channel."""
    hosts: tuple[str, ...] = (_LAPTOP,)
    """Names of all machines, in the same order on each."""
    current_host: str = _LAPTOP
    network_interface: str | None = None
    """Interface through which the machines reach each other, such as `eth0`."""
    checkpoint_dir: Path | None = None
    """Directory that SageMaker mirrors to S3, deletions included; None if the job keeps no checkpoints."""
    resources: dict[str, Any] = field(default_factory=dict)
    """Content of `resourceconfig.json`."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Content of `inputdataconfig.json`."""

    @property
    def node_rank(self) -> int:
        """Number of this machine; the first one leads."""
        return self.hosts.index(self.current_host)

    @property
    def config_dir(self) -> Path:
        """Directory of the JSON files."""
        return self.base_dir / "input" / "config"

    @property
    def model_dir(self) -> Path:
        """Directory that SageMaker packs into `model.tar.gz`."""
        return self.base_dir / "model"

    @property
    def run_dir(self) -> Path:
        """The run directory, which SageMaker packs into `output.tar.gz`."""
        return self.base_dir / "output" / "data"

    @property
    def failure_file(self) -> Path:
        """File whose first 1,024 characters become the job's FailureReason."""
        return self.base_dir / "output" / "failure"


def read_job(base_dir: Path) -> TrainingJob:
    """Read the job whose files lie below `base_dir`.

    Raises:
        TrainConfigError: Lists every fault of the files.
    """
    faults: list[str] = []
    config_dir = base_dir / "input" / "config"
    hyperparameters = _read_object(config_dir / "hyperparameters.json", faults)
    resources = _read_object(config_dir / "resourceconfig.json", faults)
    inputs = _read_object(config_dir / "inputdataconfig.json", faults)
    checkpoints = _read_object(config_dir / "checkpointconfig.json", faults)

    hosts = resources.get("hosts") or [_LAPTOP]
    current_host: str = resources.get("current_host") or _LAPTOP
    if not isinstance(hosts, list) or current_host not in hosts:
        faults.append(f"resourceconfig.json: current_host '{current_host}' is not one of the hosts {hosts}")
    for name, channel in inputs.items():
        mode = channel.get("TrainingInputMode", "File") if isinstance(channel, dict) else "File"
        if mode == "Pipe":
            faults.append(f"channel '{name}' is in Pipe mode; choose File or FastFile")
    if faults:
        raise TrainConfigError(faults)
    local_path = checkpoints.get("LocalPath")
    usual = base_dir / "checkpoints"
    return TrainingJob(
        base_dir=base_dir,
        hyperparameters={
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in hyperparameters.items()
        },
        channels=_channels(base_dir / "input" / "data", inputs),
        hosts=tuple(hosts),
        current_host=current_host,
        network_interface=resources.get("network_interface_name"),
        checkpoint_dir=Path(local_path) if local_path else usual if usual.is_dir() else None,
        resources=resources,
        inputs=inputs,
    )


def decode_hyperparameter(text: str) -> Any:
    """Decode a hyperparameter: JSON if it is valid JSON, otherwise the string itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _channels(data_dir: Path, inputs: dict[str, Any]) -> dict[str, Path]:
    """Return the configured channels, or without configuration every directory in `data_dir`."""
    there = [path.name for path in sorted(data_dir.glob("*")) if path.is_dir() and not is_junk(path)]
    return {name: data_dir / name for name in sorted(inputs) or there}


def _read_object(path: Path, faults: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        faults.append(f"{path.name} is not a JSON object")
        return {}
    return value
