"""The flags of `shrota launch`, their checks, and the CreateTrainingJob request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from serve.config.reader import read_pairs
from serve.errors import ConfigError
from serve.remote.requests import (
    Request,
    common_faults,
    name_faults,
    s3_faults,
    tag_list,
    vpc_config,
    without_empty,
)
from train.config import TrainConfig
from train.errors import TrainConfigError
from train.loop.metrics import MAX_DEFINITIONS, metric_definitions
from train.sagemaker.config import resolve_config
from train.sagemaker.job import TrainingJob

_OPT_ML = Path("/opt/ml")
_MAX_HYPERPARAMETERS = 100
_MAX_HYPERPARAMETER_CHARACTERS = 2_500


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The training job to start."""

    name: str
    """Name of the job, unique within the account."""
    image: str
    """Container image in ECR, built by `make image`."""
    role: str
    """ARN of the job's role, with the permissions in docs/iam-training.json."""
    output: str
    """S3 prefix for the model, the report and, under the job's name, the checkpoints."""
    channel: tuple[str, ...] = ()
    """Input channel, NAME=s3://BUCKET/PREFIX; train, validation, test and adapter have special meanings."""
    config: str = "whisper-large-v2-mr"
    """Committed configuration to start from."""
    hyperparameter: tuple[str, ...] = ()
    """Key of the configuration, KEY=VALUE."""
    environment: tuple[str, ...] = ()
    """Environment variable of the container, NAME=VALUE."""
    tag: tuple[str, ...] = ()
    """Tag of the job, KEY=VALUE."""
    instance_type: str = "ml.g5.xlarge"
    """Instance type."""
    instances: int = 1
    """Number of instances, which train one adapter together."""
    volume_gb: int = 100
    """Disk of each instance, in GB."""
    input_mode: Literal["FastFile", "File"] = "FastFile"
    """FastFile streams from S3 on demand; File copies everything first."""
    max_runtime_s: int = 6 * 3600
    """Time after which the job is stopped, with a checkpoint."""
    spot: bool = False
    """Use cheaper spot capacity, which may be withdrawn at any time; the job resumes from its checkpoints."""
    max_wait_s: int | None = None
    """Limit on running and waiting time together; by default twice the runtime (spot)."""
    checkpoints: str | None = None
    """S3 prefix of the checkpoints; OUTPUT/NAME/checkpoints by default."""
    tensorboard: str | None = None
    """S3 prefix to copy TensorBoard files to while the job runs."""
    test_set: tuple[str, ...] = ()
    """Name of a test set whose scores become separate metrics, such as channel-test."""
    retries: int = 0
    """Restarts after a failure of SageMaker itself."""
    warm_pool_s: int = 0
    """Time to keep the instances for the next job."""
    subnet: tuple[str, ...] = ()
    """Subnet of a VPC to run in."""
    security_group: tuple[str, ...] = ()
    """Security group in that VPC."""
    isolated: bool = False
    """Isolate the container from all networks; its base model must then be in a channel or the image."""
    encrypt_traffic: bool = False
    """Encrypt traffic between instances, which is slower."""
    kms_key: str | None = None
    """Key that encrypts disks and results."""
    region: str | None = None
    """AWS region; the environment's by default."""
    dry_run: bool = False
    """Print the request as JSON, and send nothing."""

    def __post_init__(self) -> None:
        """Refuse, all at once, what SageMaker or the container would refuse later.

        Raises:
            ConfigError: Lists every fault.
        """
        faults: list[str] = []
        channels = read_pairs(self.channel, "--channel", faults)
        hyperparameters = read_pairs(self.hyperparameter, "--hyperparameter", faults)
        read_pairs(self.environment, "--environment", faults)
        read_pairs(self.tag, "--tag", faults)
        faults += name_faults({"--name": self.name})
        faults += common_faults(
            role=self.role,
            instance_type=self.instance_type,
            subnets=self.subnet,
            security_groups=self.security_group,
        )
        faults += s3_faults(
            {
                "--output": self.output,
                "--checkpoints": self.checkpoints,
                "--tensorboard": self.tensorboard,
                **{f"--channel {name}": uri for name, uri in channels.items()},
            }
        )
        faults += [fault for holds, fault in self._rules(hyperparameters) if not holds]
        try:
            _ = self.train_config
        except TrainConfigError as error:
            faults += error.faults
        if faults:
            raise ConfigError(faults)

    def _rules(self, hyperparameters: dict[str, str]) -> tuple[tuple[bool, str], ...]:
        """Return (whether it holds, the fault if not) for each rule."""
        at_least = {
            "instances": (self.instances, 1),
            "volume-gb": (self.volume_gb, 1),
            "max-runtime-s": (self.max_runtime_s, 1),
            "retries": (self.retries, 0),
            "warm-pool-s": (self.warm_pool_s, 0),
        }
        return (
            *(
                (value >= least, f"--{name} must be at least {least}")
                for name, (value, least) in at_least.items()
            ),
            (bool(self.image.strip()), "--image is empty"),
            (self.spot or self.max_wait_s is None, "--max-wait-s is for --spot"),
            (
                self.max_wait_s is None or self.max_wait_s >= self.max_runtime_s,
                f"--max-wait-s is {self.max_wait_s}; it covers --max-runtime-s, {self.max_runtime_s}",
            ),
            (not (self.spot and self.warm_pool_s), "--warm-pool-s and --spot exclude each other"),
            (self.warm_pool_s <= 3_600, "--warm-pool-s is at most 3600"),
            (self.retries <= 30, "--retries is at most 30"),
            (
                len(hyperparameters) < _MAX_HYPERPARAMETERS,
                f"{len(hyperparameters) + 1} hyperparameters; SageMaker takes {_MAX_HYPERPARAMETERS}",
            ),
            (
                all(len(value) <= _MAX_HYPERPARAMETER_CHARACTERS for value in hyperparameters.values()),
                f"a hyperparameter is longer than {_MAX_HYPERPARAMETER_CHARACTERS} characters",
            ),
            (
                len(metric_definitions()) + 2 * len(self.test_set) <= MAX_DEFINITIONS,
                f"{len(self.test_set)} of --test-set make more than {MAX_DEFINITIONS} metrics",
            ),
        )

    @cached_property
    def train_config(self) -> TrainConfig:
        """The configuration that the container will build from this job's hyperparameters and channels."""
        channels = {text.partition("=")[0]: _OPT_ML / "input" / "data" for text in self.channel}
        job = TrainingJob(base_dir=_OPT_ML, hyperparameters=self.hyperparameters, channels=channels)
        return resolve_config(job, {}, {}).train

    @property
    def hyperparameters(self) -> dict[str, str]:
        """All hyperparameters, as SageMaker passes them to the container."""
        return {"config": self.config, **read_pairs(self.hyperparameter, "--hyperparameter", [])}


def training_request(launch: Launch) -> Request:
    """Return the CreateTrainingJob request of a launch."""
    checkpoints = launch.checkpoints or f"{launch.output.rstrip('/')}/{launch.name}/checkpoints"
    max_wait_s = launch.max_wait_s or 2 * launch.max_runtime_s
    parameters: dict[str, Any] = {
        "TrainingJobName": launch.name,
        "RoleArn": launch.role,
        "AlgorithmSpecification": {
            "TrainingImage": launch.image,
            "TrainingInputMode": launch.input_mode,
            "MetricDefinitions": metric_definitions(launch.test_set),
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": launch.hyperparameters,
        "Environment": read_pairs(launch.environment, "--environment", []),
        "InputDataConfig": [
            _channel(name, uri, launch.input_mode)
            for name, uri in read_pairs(launch.channel, "--channel", []).items()
        ],
        "OutputDataConfig": without_empty({"S3OutputPath": launch.output, "KmsKeyId": launch.kms_key}),
        "ResourceConfig": _machines(launch),
        "StoppingCondition": without_empty(
            {
                "MaxRuntimeInSeconds": launch.max_runtime_s,
                "MaxWaitTimeInSeconds": max_wait_s if launch.spot else None,
            }
        ),
        "CheckpointConfig": {"S3Uri": checkpoints, "LocalPath": str(_OPT_ML / "checkpoints")},
        "EnableManagedSpotTraining": launch.spot,
        "EnableNetworkIsolation": launch.isolated,
        "EnableInterContainerTrafficEncryption": launch.encrypt_traffic,
        "VpcConfig": vpc_config(launch.subnet, launch.security_group),
        "RetryStrategy": {"MaximumRetryAttempts": launch.retries} if launch.retries else None,
        "TensorBoardOutputConfig": _tensorboard(launch.tensorboard),
        "Tags": tag_list(read_pairs(launch.tag, "--tag", [])),
    }
    return Request(service="sagemaker", operation="CreateTrainingJob", parameters=without_empty(parameters))


def _machines(launch: Launch) -> dict[str, Any]:
    return without_empty(
        {
            "InstanceType": launch.instance_type,
            "InstanceCount": launch.instances,
            "VolumeSizeInGB": launch.volume_gb,
            "VolumeKmsKeyId": launch.kms_key,
            "KeepAlivePeriodInSeconds": launch.warm_pool_s or None,
        }
    )


def _tensorboard(prefix: str | None) -> dict[str, str]:
    local = str(_OPT_ML / "output" / "data" / "tensorboard")
    return {"S3OutputPath": prefix, "LocalPath": local} if prefix else {}


def _channel(name: str, uri: str, input_mode: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": input_mode}
