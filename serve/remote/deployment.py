"""The flags of `shrota deploy`, and their checks. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve.config.reader import read_pairs
from serve.errors import ConfigError
from serve.remote.requests import common_faults, name_faults, s3_faults
from serve.transcript.formats import FORMATS

Mode = Literal["real-time", "async", "multi-model", "components", "adapter", "batch"]
_MAX_TRANSFORM_MB = 100  # payload size times concurrent requests of a batch transform
_NEEDS = {
    "real-time": ("image", "role", "model"),
    "async": ("image", "role", "model", "output"),
    "multi-model": ("image", "role", "model"),
    "components": ("image", "role", "model"),
    "adapter": ("model", "endpoint", "base_component"),
    "batch": ("image", "role", "model", "input", "output"),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What to deploy on SageMaker, and how."""

    name: str
    """Name of the endpoint, the transform job or the adapter component."""
    mode: Mode = "real-time"
    """real-time (plain and streamed responses), async (long recordings, responses in S3), multi-model (many
    artifacts behind one endpoint), components (a base with adapters), adapter (one more adapter for a base),
    batch (every recording below a prefix, once)."""
    model: str | None = None
    """Artifact in S3: a model.tar.gz, or the prefix of an unpacked one; for multi-model the prefix of many;
    for adapter the adapter's .tar.gz."""
    image: str | None = None
    """Container image in ECR, built by `make image`."""
    role: str | None = None
    """ARN of the endpoint's role, with the permissions in docs/iam-serving.json."""
    base: str | None = None
    """S3 prefix of the base model's checkpoint, if neither image nor artifact holds it."""
    revision: str | None = None
    """Suffix of model and configuration; with it, an existing endpoint is updated without downtime."""
    environment: tuple[str, ...] = ()
    """Environment variable of the container, NAME=VALUE; SHROTA_<FLAG> is any flag of `shrota serve`."""
    tag: tuple[str, ...] = ()
    """Tag, KEY=VALUE."""
    instance_type: str = "ml.c6i.2xlarge"
    """Instance type."""
    instances: int = 1
    """Initial number of instances."""
    min_instances: int = 1
    """Fewest instances after scaling in; 0 is for async and components."""
    max_instances: int = 0
    """Most instances after scaling out; 0 disables scaling."""
    target_requests: float = 4.0
    """Concurrent requests per instance (or copy) that scaling aims at; for async, queued requests."""
    startup_timeout_s: int = 600
    """Time in which the container must answer /ping."""
    isolated: bool = True
    """Isolate the container from all networks; it needs none."""
    subnet: tuple[str, ...] = ()
    """Subnet of a VPC to run in."""
    security_group: tuple[str, ...] = ()
    """Security group in that VPC."""

    input: str | None = None
    """S3 prefix of the recordings (batch)."""
    output: str | None = None
    """S3 prefix of the responses (batch and async)."""
    failures: str | None = None
    """S3 prefix of the error responses (async)."""
    success_topic: str | None = None
    """SNS topic for a message about every response (async)."""
    error_topic: str | None = None
    """SNS topic for a message about every failure (async)."""
    accept: str = "application/json"
    """Media type of the responses (batch)."""
    content_type: str = "application/octet-stream"
    """Media type of the recordings; the default lets the service detect it (batch)."""
    max_requests: int = 4
    """Concurrent requests per instance (batch and async)."""
    max_payload_mb: int = 25
    """Largest recording, in MB; times max_requests it may be at most 100 (batch)."""

    endpoint: str | None = None
    """Endpoint that holds the base component (adapter)."""
    base_component: str | None = None
    """Component to add to; the mode components creates NAME-base (adapter)."""
    adapter: tuple[str, ...] = ()
    """Adapter to add, NAME=s3://BUCKET/ADAPTER.tar.gz (components)."""
    component_cpus: float = 4.0
    """CPU cores per copy of the base (components)."""
    component_gpus: int = 0
    """GPUs per copy of the base (components)."""
    component_memory_mb: int = 8_192
    """Memory per copy of the base, in MB (components)."""

    capture: str | None = None
    """S3 prefix where SageMaker stores requests and responses, people's speech included; none by default."""
    capture_percent: int = 100
    """Percentage of requests that is stored."""
    region: str | None = None
    """AWS region; the environment's by default."""
    dry_run: bool = False
    """Print the requests as JSON, and send nothing."""

    def __post_init__(self) -> None:
        """Refuse, all at once, what SageMaker would refuse later.

        Raises:
            ConfigError: Lists every fault.
        """
        faults = [
            f"--{field.replace('_', '-')} is missing: {self.mode} needs it"
            for field in _NEEDS[self.mode]
            if not getattr(self, field)
        ]
        read_pairs(self.environment, "--environment", faults)
        read_pairs(self.tag, "--tag", faults)
        adapters = read_pairs(self.adapter, "--adapter", faults)
        faults += name_faults(
            {
                "--name": self.name,
                **({"--name with --revision": self.revised_name} if self.revision else {}),
                **{f"--adapter {name}": name for name in adapters},
            }
        )
        faults += common_faults(
            role=self.role,
            instance_type=self.instance_type,
            subnets=self.subnet,
            security_groups=self.security_group,
        )
        places = ("model", "base", "input", "output", "failures", "capture")
        faults += s3_faults(
            {
                **{f"--{field}": getattr(self, field) for field in places},
                **{f"--adapter {name}": uri for name, uri in adapters.items()},
            }
        )
        rules = (*self._amount_rules(), *self._mode_rules(list(adapters.values())))
        faults += [fault for holds, fault in rules if not holds]
        if faults:
            raise ConfigError(faults)

    def _amount_rules(self) -> tuple[tuple[bool, str], ...]:
        """Return (whether it holds, the fault if not) for each rule about numbers."""
        least_instances = 0 if self.mode in ("async", "components") else 1
        transform_mb = self.max_requests * self.max_payload_mb
        return (
            (self.instances >= 1, "--instances must be at least 1"),
            (
                self.min_instances >= least_instances,
                f"--min-instances must be at least {least_instances} for {self.mode}",
            ),
            (
                self.max_instances == 0 or self.max_instances >= max(1, self.min_instances),
                f"--max-instances is {self.max_instances}; --min-instances is {self.min_instances}",
            ),
            (self.target_requests > 0, "--target-requests is above 0"),
            (60 <= self.startup_timeout_s <= 3_600, "--startup-timeout-s must lie between 60 and 3600"),
            (self.max_requests >= 1, "--max-requests must be at least 1"),
            (self.max_payload_mb >= 1, "--max-payload-mb must be at least 1"),
            (
                self.mode != "batch" or transform_mb <= _MAX_TRANSFORM_MB,
                f"--max-requests times --max-payload-mb is {transform_mb};"
                f" a transform takes {_MAX_TRANSFORM_MB}",
            ),
            (0 <= self.capture_percent <= 100, "--capture-percent must lie between 0 and 100"),
            (self.component_memory_mb >= 128, "--component-memory-mb must be at least 128"),
        )

    def _mode_rules(self, adapters: list[str]) -> tuple[tuple[bool, str], ...]:
        """Return (whether it holds, the fault if not) for each rule about modes, adapters and formats."""
        packed = [*adapters, *([self.model] if self.mode == "adapter" and self.model else [])]
        media_types = list(dict.fromkeys(each.media_type for each in FORMATS))
        return (
            (
                self.max_instances == 0 or self.mode not in ("batch", "adapter"),
                f"--max-instances: {self.mode} does not scale",
            ),
            (self.accept in media_types, f"--accept is not one of {', '.join(media_types)}"),
            (not adapters or self.mode == "components", "--adapter is for components"),
            (
                not self.revision or self.mode in ("real-time", "async"),
                "--revision is for real-time and async endpoints",
            ),
            (
                all(uri.endswith(".tar.gz") for uri in packed),
                "an adapter of a component is one .tar.gz, with manifest.json and adapter/ at its top",
            ),
        )

    @property
    def revised_name(self) -> str:
        """Name of the model and of the endpoint configuration, both of which are immutable."""
        return f"{self.name}-{self.revision}" if self.revision else self.name
