"""Settings of a run of the benchmark: amounts, the artifact, and directories."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "mr"
SHIPPED = ROOT / "model_artifacts" / "whisper-base-mr"
TEST_SETS = tuple(
    DATA / f"test-{name}.jsonl" for name in ("catalogue", "everyday", "everyday-telephone", "everyday-room")
)
NO_SPEECH = DATA / "test-no-speech.jsonl"
CLIENTS = 8
"""Clients that send at once."""


def sections_named(only: str, sections: Collection[str]) -> list[str]:
    """Return the sections that --only names with commas between, or all.

    Raises:
        click.BadParameter: There is no such section.
    """
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(sections)
    if unknown := set(chosen) - set(sections):
        raise click.BadParameter(f"--only knows no section '{min(unknown)}'")
    return [name for name in sections if name in chosen]


def required(paths: Iterable[Path]) -> None:
    """End the program where recordings are missing.

    Raises:
        SystemExit: One is.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise SystemExit(f"{missing[0]} does not exist: `make data` builds the test sets")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amounts to measure; the defaults take about 35 minutes on two quiet cores."""

    accuracy_clips: int = 0
    """Clips of each test set; 0 takes all."""
    base_clips: int = 24
    """Clips of each test set through the base model alone."""
    short_clips: int = 16
    """Clips of 2 to 8 s, one at a time through every peer."""
    drift_clips: int = 200
    """Clips of 2 to 8 s through our own engine in fp32 with 30 s windows."""
    concurrent_clips: int = 48
    """Clips sent by eight clients at once."""
    long_s: float = 600.0
    """Length of a recording of speech with pauses."""
    long_slow_s: float = 120.0
    """Length of its beginning that the fp32 peers take, which are several times slower."""
    beside_s: float = 1800.0
    """Length of the recording beside which a clip is sent."""
    beside_clips: int = 12
    """How often a clip of 2 s is sent, alone and beside that recording."""
    upload_s: float = 3600.0
    """Length of the recording whose first segment is waited for."""
    memory_s: tuple[float, ...] = (600.0, 10_800.0)
    """Lengths of the recordings during which memory is watched."""
    memory_limit_s: float = 300.0
    """Memory is watched for this long at most; how far the recording got is reported."""
    starts: int = 3
    """How often the service is started."""
    cuts: int = 1_000
    """Pieces cut at random out of a long recording."""
    no_speech_clips: int = 100
    """Recordings of silence, noise, tones and music, equally many of each."""


QUICK = Plan(
    accuracy_clips=4,
    base_clips=1,
    short_clips=2,
    drift_clips=2,
    concurrent_clips=8,
    long_s=20.0,
    long_slow_s=10.0,
    beside_s=120.0,
    beside_clips=2,
    upload_s=120.0,
    memory_s=(20.0, 60.0),
    memory_limit_s=10.0,
    starts=1,
    cuts=8,
    no_speech_clips=4,
)
"""Amounts for a test of the benchmark in a few minutes; its figures mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Input of every section."""

    artifact_dir: Path
    scratch: Path
    """Recordings, weights and logs of this run; removed at its end."""
    manifests: tuple[Path, ...] = ()
    plan: Plan = Plan()
    engine: str = "auto"
    """Engine of our service, a value of `--engine`."""
    language: str | None = None
    """Language of the artifact, which every peer gets."""
    n_threads: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def weights(self) -> Path:
        """Directory of the peers' merged weights."""
        return self.scratch / "weights"

    def child_environment(self) -> dict[str, str]:
        """Return the environment of a child process: equal threads for all peers, no network."""
        threads = str(self.n_threads)
        return {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
