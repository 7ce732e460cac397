"""The border between the scheduler and a model runtime: log-mel windows in, hypotheses out.

An engine detects languages and turns windows of one kind into tokens and text. It knows no audio, no
requests, no time axis and no retries. Only plain arrays, numbers and strings cross the border, plus the
encoder output that an engine caches on a window.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from serve.audio.features import LogMel
    from serve.model.artifact import Artifact

Task = Literal["transcribe", "translate"]
"""Write the spoken language, or English."""
Quantization = Literal["int8", "int4", "none"]
"""Storage of the linear layers: 8 bits, 4 bits, or unquantised."""
EngineName = Literal["auto", "ctranslate2", "transformers"]
"""Runtime; `auto` takes the fastest that supports the quantization."""

SERVED_ADAPTER = "served"
"""Key of the adapter that an engine is loaded with."""

LanguageProbs = Mapping[str, float]
"""Language code -> its probability, for every language of the base model; they sum to 1."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How one window is decoded."""

    language: str | None = None
    """Whisper language code such as `mr`; None until it is detected."""
    expected_language: str | None = None
    """The adapter's own language: where none is named, it is taken unless the base model is sure of
    another."""
    task: Task = "transcribe"
    adapter: str | None = None
    """Key of an adapter that the engine holds; None decodes with the base model alone."""
    max_new_tokens: int = 224
    """Most text tokens emitted. The context of 448 tokens, prompt included, is a second limit."""
    beam_size: int = 1
    """Beams kept per step; 1 is greedy search."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 tokens are drawn at random."""
    seed: int = 0
    """Seed of the random draws; the same window, options and seed give the same text."""
    prompt: str = ""
    """Text that precedes the window: a spelling hint, or the previous segment."""
    prefix: tuple[int, ...] = ()
    """Text tokens that the text begins with; the model writes what follows. They are no new tokens, and do
    not count in `avg_logprob`."""
    hotwords: str = ""
    """Words that are likely to be spoken, put before `prompt`."""
    suppress: tuple[str, ...] = ()
    """Texts of one token each that the model must not emit."""
    timestamps: bool = False
    """Emit sentence times as timestamp tokens; for models that were trained to."""
    word_timestamps: bool = False
    """Also align each word in time."""
    guesses_words: bool = False
    """Also split the text into words whose times are guessed; for engines that cannot align words."""


@dataclass(eq=False, kw_only=True)
class EngineInput:
    """A window on its way through an engine."""

    log_mel: LogMel
    options: DecodingOptions
    encoded: Any = None
    """Encoder output, cached here by the engine for its next call on the window, such as a retry. Opaque to
    everyone else."""

    @property
    def n_frames(self) -> int:
        """Frames of the window, 100 a second."""
        return int(self.log_mel.shape[1])


@dataclass(frozen=True)
class ScoredToken:
    """A text token with its probability."""

    token: int
    """Id in the base model's vocabulary."""
    text: bytes
    """UTF-8 bytes; a character may be split between tokens."""
    logprob: float
    """Natural logarithm of the token's probability given the tokens before it."""


@dataclass(frozen=True, kw_only=True)
class TimedText:
    """A word or a sentence with its times."""

    text: str
    start_s: float
    """Seconds from the start of the window."""
    end_s: float
    probability: float | None = None
    """Mean probability of its tokens; None where it was not requested."""
    tokens: tuple[int, ...] = ()
    """The model's text tokens."""
    scored: tuple[ScoredToken, ...] = ()
    """A word's tokens with their probabilities; empty for a sentence, and where the times are guessed."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What the model heard in one window."""

    tokens: tuple[int, ...]
    """Text tokens, without special tokens; they begin with the prefix that was given."""
    text: str
    language: str
    avg_logprob: float
    """Mean natural-log probability of the emitted tokens, the end token included."""
    no_speech_prob: float
    """Probability of Whisper's 'no speech' token at the first step."""
    language_prob: float | None = None
    """Probability of the detected language; None where it was named."""
    truncated: bool = False
    """Decoding stopped at the token limit, not at the model's end token."""
    looped: bool = False
    """The model repeated itself; one round of the repetition is kept."""
    is_echo: bool = False
    """The text repeats itself because the sound does."""
    temperature: float = 0.0
    """Temperature of the attempt that was accepted."""
    compression_ratio: float = 1.0
    """Letters of the text divided by their zlib-compressed bytes; loops give high ratios."""
    sentences: tuple[TimedText, ...] = ()
    """Text between timestamp tokens; empty where none were emitted."""
    words: tuple[TimedText, ...] = ()
    """In order; empty where word times were not requested, unless `is_echo`."""


@dataclass(frozen=True)
class BatchSize:
    """The largest batch to decode together."""

    windows: int
    """Number of windows."""
    window_s: float
    """Seconds of all windows, padding included."""


CPU_BATCH = BatchSize(8, 32.0)
"""With more than four windows of 8 s, the memory that each decoding step reads outgrows a core's cache."""

GPU_BATCH = BatchSize(32, 480.0)
"""The same for a GPU, whose memory holds more."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How an engine fares, apart from the batches that it is given."""

    n_restarts: int = 0
    """How often its process was replaced."""
    memory_bytes: int = 0
    """Resident memory of its process; 0 where it has none of its own."""


class Engine(Protocol):
    """A loaded model. At most `n_workers` threads may decode at a time; any thread may load meanwhile.

    An engine can hold several adapters at once. The caller chooses each one's key and never reuses it.
    """

    @property
    def n_workers(self) -> int:
        """Batches that can be decoded in parallel with little loss of speed to each."""

    @property
    def usual_batch(self) -> BatchSize:
        """The largest batch whose throughput is worth its latency."""

    @property
    def languages(self) -> frozenset[str]:
        """Language codes the base model knows."""

    @property
    def has_adapter(self) -> bool:
        """Whether the engine was loaded with an adapter on top of the base model."""

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Return (option, reason) for an option that this engine cannot serve; None where it serves them all.

        Callers check this before `decode`, which does not check again.
        """

    def adapter_bytes(self, artifact: Artifact) -> int:
        """Return the memory that `load_adapter` will take, in bytes.

        Converts the adapter first where needed, in the calling thread, and caches the result on disk.

        Raises:
            StartupError: The adapter does not fit the base model, or cannot be converted.
        """

    def base_bytes(self) -> int:
        """Return the memory that the base model alone takes now, in bytes."""

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        """Load a further adapter while windows are being decoded.

        Raises:
            StartupError: The adapter does not fit the base model.
        """

    def unload_adapter(self, key: str) -> None:
        """Free an adapter once no running batch uses it. The key is invalid afterwards."""

    def has_lost(self, key: str) -> bool:
        """Return whether a loaded adapter is gone: a new process could not load it again."""
        return False

    def bytes_to_load(self, options: DecodingOptions) -> int:
        """Return the bytes that `make_ready` will load. Converts models that are not converted yet.

        Raises:
            StartupError: A model cannot be found or converted.
        """

    def make_ready(self, options: DecodingOptions) -> None:
        """Load the models that these options need, in the calling thread, so that no batch waits for them.

        Raises:
            StartupError: A model cannot be found, converted or loaded.
        """

    def kind(self, window: EngineInput) -> Hashable:
        """Return the batching key: windows with equal kinds can be decoded in one call.

        Raises:
            EngineError: The runtime failed.
        """

    def detect_language(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        """Return the base model's language probabilities for each window.

        Args:
            windows: Each 30 s long, the length at which Whisper was trained to detect languages.

        Raises:
            EngineError: The runtime failed.
        """

    def decode(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        """Decode windows of one kind once, as one batch; hypotheses come in the order of the windows.

        Raises:
            EngineError: The runtime failed.
        """

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls now: False while its process is replaced."""
        return True

    def health(self) -> Health:
        """Return how the engine fares."""
        return Health()

    def close(self) -> None:
        """Free the models. The engine cannot be used afterwards."""
