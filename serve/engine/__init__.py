"""The border between the scheduler and a model runtime: windows of log-mel go in, hypotheses come out.

An engine knows no audio, no requests, no time axis and no second attempts: it detects languages, and turns
windows of one kind into tokens and text. Only plain arrays, numbers and strings cross the border, and what an
engine keeps of a window for its next call.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from serve.model.artifact import Artifact

Task = Literal["transcribe", "translate"]
Quantization = Literal["int8", "int4", "none"]
EngineName = Literal["auto", "ctranslate2", "transformers"]

SERVED_ADAPTER = "served"
"""Key of the adapter that an engine is loaded with."""

LogMel = npt.NDArray[np.float32]
"""Log-mel spectrogram of a window, (n_mels, n_frames); 100 frames a second, an even number, at most 3,000."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How one window is decoded."""

    language: str | None = None
    """Whisper language code such as `mr`; None until it is detected."""
    expected_language: str | None = None
    """The adapter's own: where none is named, it is taken unless the base model is sure of another."""
    task: Task = "transcribe"
    adapter: str | None = None
    """Key of an adapter that the engine holds; None decodes with the base model alone."""
    max_new_tokens: int = 224
    """Most text tokens emitted; the context of 448 tokens, prompt included, bounds it as well."""
    beam_size: int = 1
    """Texts kept side by side; 1 is greedy search."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 tokens are drawn at random."""
    seed: int = 0
    """Start of the random draws; the same window, options and seed give the same text."""
    prompt: str = ""
    """Text taken to precede the window: a spelling hint, or what was said before."""
    hotwords: str = ""
    """Words that are likely to be said, put before `prompt`."""
    suppress: tuple[str, ...] = ()
    """Texts of one token each that are never written."""
    timestamps: bool = False
    """Write the times of sentences as timestamp tokens; for models that were trained to."""
    word_timestamps: bool = False
    """Also find when each word is said."""


@dataclass(eq=False, kw_only=True)
class EngineInput:
    """A window on its way through an engine."""

    log_mel: LogMel
    options: DecodingOptions
    encoded: Any = None
    """What the engine's encoder made of the window; the engine keeps it here for the next call that needs it,
    such as a further attempt, and nobody else looks at it."""

    @property
    def n_frames(self) -> int:
        """Frames of the window, 100 a second."""
        return int(self.log_mel.shape[1])


@dataclass(frozen=True, kw_only=True)
class TimedText:
    """A word or a sentence, and when it is said."""

    text: str
    start_s: float
    """Seconds from the start of the window."""
    end_s: float
    probability: float | None = None
    """Mean probability of its tokens; None where it was not asked for."""
    tokens: tuple[int, ...] = ()
    """Of a sentence."""


@dataclass(frozen=True)
class ScoredToken:
    """A text token as it is written, and how likely it was."""

    token: int
    text: bytes
    """UTF-8; a letter may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability behind the tokens before it."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What the model heard in one window."""

    tokens: tuple[int, ...]
    """Text tokens, without special tokens."""
    text: str
    language: str
    avg_logprob: float
    """Mean natural-log probability of the emitted tokens, the end token included."""
    no_speech_prob: float
    """Probability the model gives to 'no speech' as its first token."""
    language_prob: float | None = None
    """Probability of the detected language; None where it was named."""
    truncated: bool = False
    """Decoding stopped at the token limit, not at the model's end token."""
    looped: bool = False
    """The model repeated itself; one round of the repetition is kept."""
    temperature: float = 0.0
    """Of the attempt that was accepted."""
    compression_ratio: float = 1.0
    """Letters of the text to the bytes that zlib makes of them; loops give high ratios."""
    sentences: tuple[TimedText, ...] = ()
    """What stands between timestamp tokens; empty where none were written."""
    words: tuple[TimedText, ...] = ()
    """In order, where word times were asked for."""
    scored_tokens: tuple[ScoredToken, ...] = ()
    """One for each of `tokens`, where word times were asked for."""


@dataclass(frozen=True)
class BatchSize:
    """How much is decoded together."""

    windows: int
    window_s: float
    """Seconds of all windows, padding included."""


CPU_BATCH = BatchSize(8, 32.0)
"""Of more than four windows of 8 s, what the decoder looks at in each step outgrows the cache of a core."""

GPU_BATCH = BatchSize(32, 480.0)


class Engine(Protocol):
    """A loaded model. At most `n_workers` threads may decode at a time; any may load meanwhile.

    Besides the adapter that it was loaded with it holds others, each by a key that whoever loads it chooses
    and never uses for another.
    """

    @property
    def n_workers(self) -> int:
        """Batches that are decoded side by side without one slowing another down much."""

    @property
    def usual_batch(self) -> BatchSize:
        """The largest batch that is worth its wait."""

    @property
    def languages(self) -> frozenset[str]:
        """Language codes the base model knows."""

    @property
    def has_adapter(self) -> bool:
        """Whether it was loaded with an adapter on top of the base model."""

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Name an option that this engine cannot serve, and why not; None where it can serve them all.

        To be asked before `decode`, which takes for granted that it can.
        """

    def adapter_bytes(self, artifact: Artifact) -> int:
        """Return what `load_adapter` will take in memory.

        What has to be converted is converted first, in the calling thread, and kept on disk.

        Raises:
            StartupError: It does not fit the base model, or cannot be converted.
        """

    def base_bytes(self) -> int:
        """Return what the base model alone takes in memory now."""

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        """Load an adapter beside those that are there; windows are decoded meanwhile.

        Raises:
            StartupError: It does not fit the base model.
        """

    def unload_adapter(self, key: str) -> None:
        """Free an adapter once no batch is at it; nobody may ask for it any more."""

    def bytes_to_load(self, options: DecodingOptions) -> int:
        """Return what `make_ready` will take in memory; what has to be converted is converted first.

        Raises:
            StartupError: It cannot be had.
        """

    def make_ready(self, options: DecodingOptions) -> None:
        """Load what these options need besides, so that no batch has to wait for it; in the calling thread.

        Raises:
            StartupError: It cannot be had.
        """

    def kind(self, window: EngineInput) -> Hashable:
        """Return what windows must have in common to be decoded in one call, such as adapter and length.

        Raises:
            EngineError: The runtime failed.
        """

    def detect_language(self, windows: Sequence[EngineInput]) -> list[tuple[str, float]]:
        """Return the likeliest language of each window, and its probability.

        Args:
            windows: 30 s long each, in which the base model was trained to tell languages apart.

        Raises:
            EngineError: The runtime failed.
        """

    def decode(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        """Decode windows of one kind together, once; the answer is in their order.

        Raises:
            EngineError: The runtime failed.
        """

    def close(self) -> None:
        """Free the model. The engine cannot be used afterwards."""
