"""The shipped adapter in the runtime that serves it, for what a random model cannot show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.engine import EngineInput, Hypothesis
from serve.engine.ctranslate2.engine import CTranslate2Engine
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.scheduler import Scheduler
from serve.model.artifact import Artifact, load_artifact
from serve.model.base_model import resolve_base_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def whisper_base_dir() -> Path:
    """The real openai/whisper-base, from the cache if it is there."""
    return resolve_base_model("openai/whisper-base")


@pytest.fixture(scope="session")
def shipped() -> Artifact:
    """The adapter of this repository."""
    return load_artifact(ROOT / "model_artifacts" / "whisper-base-mr")


@pytest.fixture(scope="session")
def shipped_int8(whisper_base_dir: Path, shipped: Artifact) -> CTranslate2Engine:
    """The adapter merged into the real base and rounded to int8, as it is served."""
    return CTranslate2Engine.load(whisper_base_dir, shipped, quantization="int8")


@pytest.fixture(scope="session")
def english() -> np.ndarray:
    """Eight words of English, from a LibriVox reading of Sense and Sensibility (public domain)."""
    samples, sample_rate = soundfile.read(ROOT / "tests" / "data" / "sample-en.flac", dtype="float32")
    assert sample_rate == 16_000
    return samples


@pytest.fixture(scope="session")
def sample() -> np.ndarray:
    """A sentence of four seconds that training never met: seven words."""
    samples, sample_rate = soundfile.read(ROOT / "tests" / "data" / "sample-mr.flac", dtype="float32")
    assert sample_rate == 16_000
    return samples


@pytest.fixture(scope="session")
def decode() -> Callable[..., list[Hypothesis]]:
    """A function that decodes windows once, kind by kind: `decode(engine, log_mels, options)`."""

    def decode(engine, log_mels, options):
        windows = [EngineInput(log_mel=m, options=o) for m, o in zip(log_mels, options, strict=True)]
        kinds: dict = {}
        for row, window in enumerate(windows):
            kinds.setdefault(engine.kind(window), []).append(row)
        found = {}
        for rows in kinds.values():
            found |= zip(rows, engine.decode([windows[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(windows))]

    return decode


@pytest.fixture(scope="session")
def transcribe() -> Callable[..., list[Hypothesis]]:
    """A function that decodes windows by a scheduler: `transcribe(engine, log_mels, options)`."""

    def transcribe(engine, log_mels, options):
        windows = [EngineInput(log_mel=m, options=o) for m, o in zip(log_mels, options, strict=True)]
        limits = BatchLimits(target_s=1e9)
        with Scheduler(engine, limits=limits, frees_engine=False) as scheduler, scheduler.admit() as ticket:
            return list(ticket.decode(windows))

    return transcribe
