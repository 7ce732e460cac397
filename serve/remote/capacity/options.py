"""The question: traffic, instances, scaling and a price, as flags of `shrota capacity`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from serve.engine.scheduling.admission import Admission
from serve.errors import ConfigError
from serve.remote.capacity.endpoint import Scaling
from serve.remote.capacity.instance import Rules
from serve.remote.capacity.service_time import ServiceTime, Shape, read_measurement


@dataclass(frozen=True, kw_only=True)
class CapacityOptions:
    """What to compute."""

    hours: tuple[float, ...] = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
    """Hours of audio a day."""
    mean_s: float = 30.0
    """Mean length of a recording, in seconds; lengths are lognormal."""
    spread: float = 1.0
    """Standard deviation of the logarithm of the length; 0 makes all recordings equal."""
    manifest: Path | None = None
    """Manifest (JSON lines with duration_s) whose recordings come, instead of lognormal lengths."""
    bytes_per_audio_s: float = 32_000.0
    """Bytes of a second of sound; requests above 1 MiB get none of the places kept for short ones."""
    peak_factor: float = 3.0
    """Rate of arrivals at the peak of the day, relative to the day's mean."""

    measured: Path | None = None
    """What `python bench/capacity.py` measured on such an instance; by default about the shipped adapter on
    two cores."""
    workers: int | None = None
    """Batches that an instance decodes at a time; by default as measured."""
    cores: float | None = None
    """Cores of an instance; by default as measured."""
    max_requests: int = 16
    """Requests that an instance admits at a time; further ones get status 429."""
    max_waiting_audio_s: float = 57_600.0
    """Sound that an instance admits at a time, in seconds."""

    target_requests: float = 4.0
    """Concurrent requests per instance that scaling aims at."""
    min_instances: int = 1
    """Fewest instances."""
    max_instances: int = 1_000_000
    """Most instances."""
    scale_delay_s: float = 60.0
    """Time over which scaling averages the load before it acts, in seconds."""
    cold_start_s: float = 240.0
    """Time from the order of an instance to its first request, in seconds."""
    price: float | None = None
    """Price of an instance for an hour, in any currency."""

    sample_s: float = 300.0
    """Simulated part of the peak, in seconds; few arrivals lengthen it."""
    seed: int = 0
    """Seed of the traffic."""
    json: bool = False
    """Print JSON instead of a table."""
    picture: Path | None = None
    """Directory for pictures (PNG): instances and cost by volume, latency by load."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ConfigError: Lists every fault.
        """
        above_0 = (
            "mean_s",
            "bytes_per_audio_s",
            "max_waiting_audio_s",
            "target_requests",
            "sample_s",
            "cores",
        )
        at_least = {
            **{name: 0 for name in ("spread", "scale_delay_s", "cold_start_s", "price", "seed")},
            **{name: 1 for name in ("peak_factor", "workers", "max_requests", "min_instances")},
        }
        values = {name: value for name, value in vars(self).items() if value is not None}
        faults = [f"{_flag(name)} must be above 0" for name in above_0 if values.get(name, 1) <= 0]
        faults += [
            f"{_flag(name)} must be at least {least}"
            for name, least in at_least.items()
            if values.get(name, least) < least
        ]
        if not self.hours or min(self.hours) <= 0:
            faults.append("--hours must be above 0")
        if self.max_instances < self.min_instances:
            faults.append(f"--max-instances is {self.max_instances}; --min-instances is {self.min_instances}")
        if self.spread > 3:
            faults.append("--spread must be at most 3: e^3 is a factor of 20 already")
        if faults:
            raise ConfigError(faults)

    @property
    def rules(self) -> Rules:
        """Admission as the service has it by default, a quarter of its places for short requests."""
        admission = Admission(
            max_requests=self.max_requests,
            n_kept_for_short=self.max_requests // 4,
            max_waiting_audio_s=self.max_waiting_audio_s,
        )
        return Rules(admission=admission, bytes_per_audio_s=self.bytes_per_audio_s)

    @property
    def scaling(self) -> Scaling:
        """How instances follow the load."""
        return Scaling(
            target_requests=self.target_requests,
            delay_s=self.scale_delay_s,
            cold_start_s=self.cold_start_s,
            least=self.min_instances,
            most=self.max_instances,
        )

    def instance(self) -> tuple[ServiceTime, Shape]:
        """Return the measured instance, with what the options change.

        Raises:
            ConfigError: The measurement cannot be read.
        """
        time, shape = read_measurement(self.measured) if self.measured else (ServiceTime(), Shape())
        n_workers = shape.n_workers if self.workers is None else self.workers
        cores = shape.cores if self.cores is None else self.cores
        return time, dataclasses.replace(shape, n_workers=n_workers, cores=cores)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
