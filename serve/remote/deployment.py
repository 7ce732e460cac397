"""The flags of `python -m serve.remote.deploy`, checked: what is to be deployed, and how. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve.config.flags import read_pairs
from serve.errors import ConfigError
from serve.remote.requests import common_faults, name_faults, s3_faults
from serve.transcript.formats import FORMATS

Mode = Literal["real-time", "async", "multi-model", "components", "adapter", "batch"]
_MAX_TRANSFORM_MB = 100  # of one transform request times the requests at a time
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
    """A model to be put to work on SageMaker."""

    name: str
    """Name of the endpoint, of the transform job or of the adapter component."""
    mode: Mode = "real-time"
    """real-time (plain and streamed answers), async (long recordings, answers in S3), multi-model (many
    artifacts behind one endpoint), components (a base with adapters beside it), adapter (one more adapter for
    them), batch (every recording below a prefix, once)."""
    model: str | None = None
    """Artifact in S3: a model.tar.gz, or the prefix of an unpacked one; of multi-model the prefix of many; of
    adapter the adapter's .tar.gz."""
    image: str | None = None
    """Container image in ECR, as `make image` builds it."""
    role: str | None = None
    """ARN of the role that the endpoint takes: docs/iam-serving.json says what it must be allowed."""
    base: str | None = None
    """S3 prefix of the base model's checkpoint, where neither image nor artifact holds it."""
    revision: str | None = None
    """Suffix of model and configuration; with it an existing endpoint is updated without a gap."""
    environment: tuple[str, ...] = ()
    """Environment variable of the container, NAME=VALUE; SHROTA_<FLAG> is any flag of python -m serve."""
    tag: tuple[str, ...] = ()
    """Tag, KEY=VALUE."""
    instance_type: str = "ml.c6i.2xlarge"
    """Machine to serve on."""
    instances: int = 1
    """Machines at first."""
    min_instances: int = 1
    """Fewest machines that scaling leaves; 0 is for async and components."""
    max_instances: int = 0
    """Most machines that scaling takes; 0 scales nothing."""
    target_requests: float = 4.0
    """Requests at a time for each machine (or copy) that scaling aims at; of async, requests in the queue."""
    startup_timeout_s: int = 600
    """The container must answer /ping within this time."""
    isolated: bool = True
    """Cut the container off from every network; it needs none."""
    subnet: tuple[str, ...] = ()
    """Subnet of a VPC to run in."""
    security_group: tuple[str, ...] = ()
    """Security group in it."""

    input: str | None = None
    """Of batch: S3 prefix of the recordings."""
    output: str | None = None
    """Of batch and async: S3 prefix of the answers."""
    failures: str | None = None
    """Of async: S3 prefix of the answers that went wrong."""
    success_topic: str | None = None
    """Of async: SNS topic that is told of every answer."""
    error_topic: str | None = None
    """Of async: SNS topic that is told of every failure."""
    accept: str = "application/json"
    """Of batch: media type of the answers."""
    content_type: str = "application/octet-stream"
    """Of batch: media type of the recordings; this one lets the service look for itself."""
    max_requests: int = 4
    """Of batch and async: requests at a time for each machine."""
    max_payload_mb: int = 25
    """Of batch: longest recording, in MB; times max_requests at most 100."""

    endpoint: str | None = None
    """Of adapter: endpoint that holds the base component."""
    base_component: str | None = None
    """Of adapter: component to add to; NAME-base is what components makes."""
    adapter: tuple[str, ...] = ()
    """Of components: adapter to add at once, NAME=s3://BUCKET/ADAPTER.tar.gz."""
    component_cpus: float = 4.0
    """Of components: CPU cores for each copy of the base."""
    component_gpus: int = 0
    """Of components: GPUs for each copy of the base."""
    component_memory_mb: int = 8_192
    """Of components: memory for each copy of the base, in MB."""

    capture: str | None = None
    """S3 prefix where SageMaker keeps requests and answers; by default it keeps none of people's speech."""
    capture_percent: int = 100
    """Share of them that is kept."""
    region: str | None = None
    """AWS region; that of the environment by default."""
    dry_run: bool = False
    """Print the requests as JSON and send nothing."""

    def __post_init__(self) -> None:
        """Refuse what SageMaker would refuse later, all at once.

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
        scales_to_zero = self.mode in ("async", "components")
        packed = [*adapters.values(), *([self.model] if self.mode == "adapter" and self.model else [])]
        media_types = list(dict.fromkeys(each.media_type for each in FORMATS))
        rules = (
            (self.instances >= 1, "--instances is at least 1"),
            (
                self.min_instances >= (0 if scales_to_zero else 1),
                f"--min-instances is at least {0 if scales_to_zero else 1} for {self.mode}",
            ),
            (
                self.max_instances == 0 or self.max_instances >= max(1, self.min_instances),
                f"--max-instances is {self.max_instances}; --min-instances is {self.min_instances}",
            ),
            (
                self.max_instances == 0 or self.mode not in ("batch", "adapter"),
                f"--max-instances: {self.mode} does not scale",
            ),
            (self.target_requests > 0, "--target-requests is above 0"),
            (60 <= self.startup_timeout_s <= 3_600, "--startup-timeout-s lies between 60 and 3600"),
            (self.max_requests >= 1, "--max-requests is at least 1"),
            (self.max_payload_mb >= 1, "--max-payload-mb is at least 1"),
            (
                self.mode != "batch" or self.max_requests * self.max_payload_mb <= _MAX_TRANSFORM_MB,
                f"--max-requests times --max-payload-mb is {self.max_requests * self.max_payload_mb};"
                f" a transform takes {_MAX_TRANSFORM_MB}",
            ),
            (self.accept in media_types, f"--accept is none of {', '.join(media_types)}"),
            (0 <= self.capture_percent <= 100, "--capture-percent lies between 0 and 100"),
            (not adapters or self.mode == "components", "--adapter is for components"),
            (
                not self.revision or self.mode in ("real-time", "async"),
                "--revision is for real-time and async endpoints",
            ),
            (
                all(uri.endswith(".tar.gz") for uri in packed),
                "an adapter of a component is one .tar.gz, with manifest.json and adapter/ at its top",
            ),
            (self.component_memory_mb >= 128, "--component-memory-mb is at least 128"),
        )
        faults += [fault for holds, fault in rules if not holds]
        if faults:
            raise ConfigError(faults)

    @property
    def revised_name(self) -> str:
        """Name of the model and of the endpoint's configuration, which cannot be changed once they exist."""
        return f"{self.name}-{self.revision}" if self.revision else self.name
