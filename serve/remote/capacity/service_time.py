"""How long an instance works: affine prices, its shape, and the file of a measurement that holds both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.audio.features import MAX_WINDOW_S, window_length_s
from serve.audio.samples import SAMPLE_RATE
from serve.config.reader import Given, read_or_raise
from serve.engine import CPU_BATCH, GPU_BATCH, BatchSize
from serve.errors import ConfigError
from serve.pipeline import ServingFacts

STRETCH_S = 10.0
"""Time in which a machine keeps its speed, in seconds."""


@dataclass(frozen=True, kw_only=True)
class ServiceTime:
    """What an instance works on, in seconds of a core's time (or of the GPU's), and how it cuts recordings.

    The defaults are those of `bench/capacity.json`: whisper-base with the shipped adapter on two cores.
    """

    request_s: float = 0.012
    """Work for a request whatever its length, in seconds."""
    prepare_s_per_audio_s: float = 0.0028
    """Work to decode a second of sound, find speech and compute features, in seconds."""
    batch_s: float = 0.0
    """Work for a batch whatever is in it, in seconds."""
    s_per_window_s: float = 0.0109
    """Work to encode a second of window, padding included, in seconds."""
    s_per_token: float = 0.00444
    """Work for a token of a window that is decoded alone, in seconds."""
    shared: float = 0.682
    """The part of a token's work that windows of one batch share, from 0 to 1."""
    tokens_per_s: float = 14.7
    """Tokens of a second of speech."""
    tokens_spread: float = 0.163
    """How much recordings differ in that: the standard deviation of its logarithm. The window with the most
    tokens decides how long a batch takes."""
    speed_spread: float = 0.0704
    """How much the machine's speed differs from one `STRETCH_S` to the next: the standard deviation of its
    logarithm. Neighbours on the same host share its caches, memory and heat."""
    speech_share: float = 0.942
    """The part of a recording that its windows hold; pauses are left out."""
    dynamic: bool = True
    """Whether windows are as long as the speech in them; false is 30 s."""
    margin_s: float = 0.9
    """Silence after the speech of a dynamic window, in seconds."""

    def __post_init__(self) -> None:
        """Refuse what no machine does.

        Raises:
            ConfigError: Lists every fault.
        """
        below = [name for name, value in dataclasses.asdict(self).items() if value < 0]
        faults = [f"{name} is {getattr(self, name)}; it must be at least 0" for name in below]
        faults += [f"{name} is above 1" for name in ("shared", "speech_share") if getattr(self, name) > 1]
        faults += ["speech_share must be above 0"] * (self.speech_share == 0)
        if faults:
            raise ConfigError(faults)

    def batch_work_s(self, window_s: Sequence[float], n_tokens: Sequence[int]) -> float:
        """Return the work for a batch of windows, each with its length in seconds and its tokens."""
        longest = max(n_tokens)
        tokens = self.shared * longest + (1 - self.shared) * sum(n_tokens)
        return self.batch_s + self.s_per_window_s * sum(window_s) + self.s_per_token * tokens

    def speech_pieces_s(self, audio_s: float) -> list[float]:
        """Return the seconds of speech in each window of a recording."""
        speech_s = self.speech_share * audio_s
        facts = ServingFacts()
        usual_s, first_s = (
            (facts.max_packed_s, facts.max_first_window_s) if self.dynamic else (MAX_WINDOW_S, MAX_WINDOW_S)
        )
        n = 1 if speech_s <= first_s else -int(-speech_s // usual_s)
        return [speech_s / n] * n

    def window_s(self, speech_s: float) -> float:
        """Return the length of the window for so much speech, padding included."""
        if not self.dynamic:
            return MAX_WINDOW_S
        return window_length_s(round(speech_s * SAMPLE_RATE), self.margin_s)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an instance has."""

    n_workers: int = 2
    """Batches that its engine decodes at a time."""
    cores: float = 1.51
    """Full cores' worth of work that gets done at a time; two threads of one core do less than two cores."""
    on_gpu: bool = False
    """Whether batches run on a GPU, and leave the cores to everything else."""

    def __post_init__(self) -> None:
        """Refuse an instance that does no work.

        Raises:
            ConfigError: Lists every fault.
        """
        faults = ["n_workers must be at least 1"] * (self.n_workers < 1)
        faults += ["cores must be above 0"] * (self.cores <= 0)
        if faults:
            raise ConfigError(faults)

    @property
    def largest_batch(self) -> BatchSize:
        """The engine's usual limit of a batch."""
        return GPU_BATCH if self.on_gpu else CPU_BATCH


def read_measurement(path: Path) -> tuple[ServiceTime, Shape]:
    """Return what a measurement found.

    Raises:
        ConfigError: The file holds no measurement.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        parts = [record[name].items() for name in ("service_time", "shape")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = "`python bench/capacity.py` writes one"
        raise ConfigError([f"{path} is no measurement with `service_time` and `shape`; {told}"]) from error
    time, shape = ({key: Given(value, f"{key} in {path}") for key, value in part} for part in parts)
    return read_or_raise(ServiceTime, time), read_or_raise(Shape, shape)
