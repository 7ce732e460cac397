"""The fast engine: Whisper in CTranslate2, the adapter merged into its weights before quantisation.

    engine = CTranslate2Engine.load(base_dir, artifact, quantization="int8", n_threads=2)
    (hypothesis,) = engine.decode([EngineInput(log_mel=log_mel, options=DecodingOptions(language="mr"))])

Each adapter has its own converted models (`serve.engine.ctranslate2.variants`), which are loaded and freed
while others decode. torch, transformers and peft are imported only to convert a model.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ctranslate2
import numpy as np

from serve.audio.samples import FRAMES_PER_S
from serve.engine import (
    CPU_BATCH,
    GPU_BATCH,
    SERVED_ADAPTER,
    BatchSize,
    DecodingOptions,
    Engine,
    EngineInput,
    Hypothesis,
    LanguageProbs,
    Quantization,
    tracing,
)
from serve.engine.copies import is_repetitive, weighed
from serve.engine.ctranslate2.merging import Storage
from serve.engine.ctranslate2.model import CT2Model, Generated, gathered
from serve.engine.ctranslate2.timing import timed_words, with_words
from serve.engine.ctranslate2.variants import (
    ADAPTED,
    BASE,
    Compute,
    Convert,
    Find,
    Variant,
    Variants,
    Workers,
    converter,
    variants_of,
    weights_bytes,
    writes_few_tokens,
)
from serve.engine.repetition import before_loop
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.engine.words import heard_frames
from serve.errors import EngineError, StartupError
from serve.model.artifact import Artifact

MULTILINGUAL_TOKENS = 51_865
"""CTranslate2 detects languages only with vocabularies of at least this size."""

_LAYOUT: dict[tuple[Quantization, str], tuple[Storage, Compute]] = {
    ("int8", "cpu"): ("int8", "int8"),
    ("int8", "cuda"): ("int8", "int8_float16"),
    ("none", "cpu"): ("float32", "float32"),
    ("none", "cuda"): ("float16", "float16"),
}
"""(quantization, device) -> (how weights are stored on disk, the compute type)."""


class CTranslate2Engine(Engine):
    """Implements `serve.engine.Engine`."""

    def __init__(
        self,
        directories: dict[Variant, Find],
        vocabulary: Vocabulary,
        *,
        language: str | None = None,
        convert: Convert | None = None,
        preload: bool = True,
        device: str = "cpu",
        compute: Compute = "int8",
        workers: Workers | None = None,
    ) -> None:
        """Build the engine, and preload the model that most windows need.

        Args:
            directories: How to find each converted model; see `Variants`.
            language: The served adapter's language; its windows may use the model with few tokens.
            convert: How to find the models of further adapters; None if there will be none.
            preload: False loads no model yet.

        Raises:
            StartupError: The model cannot be found or loaded.
        """
        self.variants = Variants(directories, device=device, compute=compute, workers=workers or Workers())
        self._vocabulary = vocabulary
        self._never: list[int] = vocabulary.suppressed.tolist()
        self._never_in_times = [token for token in self._never if token <= vocabulary.no_timestamps]
        self._languages: dict[str, str | None] = {SERVED_ADAPTER: language}
        self._convert = convert
        self._drawing = threading.Lock()
        if preload:
            self.variants.model(self.variants.usual(SERVED_ADAPTER if self.has_adapter else None))

    @classmethod
    def load(
        cls,
        base_dir: Path,
        artifact: Artifact | None = None,
        *,
        quantization: Quantization = "int8",
        n_threads: int = 1,
        cache_dir: Path | None = None,
        preload: bool = True,
    ) -> CTranslate2Engine:
        """Load the converted models of a base model and an adapter from the cache; convert what is missing.

        Args:
            artifact: Holds the adapter; None serves the base model alone.
            quantization: `int8`, or `none`: fp32 on a CPU, fp16 on a GPU. CTranslate2 has no `int4`.
            n_threads: CPU threads of all batches together.

        Raises:
            ConversionError: A converted model can neither be found nor made.
            BaseModelError: The base model has no Whisper tokenizer.
        """
        device = "cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"
        storage, compute = _LAYOUT[quantization, device]
        d_model = json.loads((base_dir / "config.json").read_bytes()).get("d_model", 0)

        convert = converter(base_dir, storage, cache_dir)
        directories = {BASE: convert(None, False)}
        if artifact is not None:
            directories |= variants_of(SERVED_ADAPTER, artifact, convert)
        return cls(
            directories,
            Vocabulary.read(base_dir),
            language=artifact.manifest.language if artifact is not None else None,
            convert=convert,
            preload=preload,
            device=device,
            compute=compute,
            workers=Workers.of(d_model, n_threads, device),
        )

    @property
    def languages(self) -> frozenset[str]:
        return frozenset(self._vocabulary.languages or {"en": 0})

    @property
    def has_adapter(self) -> bool:
        return ADAPTED in self.variants.directories

    @property
    def n_workers(self) -> int:
        return self.variants.workers.count

    @property
    def usual_batch(self) -> BatchSize:
        return GPU_BATCH if self.variants.device == "cuda" else CPU_BATCH

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        detects = self._vocabulary.size >= MULTILINGUAL_TOKENS or not self._vocabulary.languages
        if options.language is None and not detects:
            return "language", "this model's vocabulary is too small for detection: name a language"
        return self._vocabulary.unsupported(options)

    def adapter_bytes(self, artifact: Artifact) -> int:
        assert self._convert is not None
        return weights_bytes(self._convert(artifact, writes_few_tokens(artifact)))

    def base_bytes(self) -> int:
        return weights_bytes(self.variants.directories[BASE]) if BASE in self.variants.loaded else 0

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        assert self._convert is not None
        self._languages[key] = artifact.manifest.language
        self.variants.directories |= variants_of(key, artifact, self._convert)
        self.variants.model(self.variants.usual(key))

    def unload_adapter(self, key: str) -> None:
        self.variants.drop(key)
        self._languages.pop(key, None)

    def bytes_to_load(self, options: DecodingOptions) -> int:
        return self.variants.bytes_to_load(self._needed(options))

    def make_ready(self, options: DecodingOptions) -> None:
        for variant in self._needed(options):
            self.variants.model(variant)

    def _needed(self, options: DecodingOptions) -> list[Variant]:
        needed = [BASE] if options.adapter is None or options.language is None else []
        if options.adapter is not None:
            language = options.language or options.expected_language
            needed.append(self._variant(replace(options, language=language)))
        return needed

    def _variant(self, options: DecodingOptions) -> Variant:
        """Choose the model for a window: the one with few tokens where it suffices."""
        adapter = options.adapter
        usual = self.variants.usual(adapter)
        if adapter is None or not usual.few_tokens:
            return usual
        if options.language != self._languages[adapter] or options.task != "transcribe":
            return Variant(adapter)
        if not (options.prompt or options.hotwords or options.prefix):  # every variant has special tokens
            return usual
        readable = self.variants.model(usual).can_read(self._vocabulary.prompt_of(options))
        return usual if readable else Variant(adapter)

    def kind(self, window: EngineInput) -> Hashable:
        options = window.options
        with _errors():
            return (
                self._variant(options),
                window.n_frames,
                len(self._vocabulary.prompt_of(options)),
                (options.timestamps, options.beam_size, options.suppress, len(options.prefix)),
                # Word alignment takes one start sequence for the whole batch.
                (options.language, options.task) if options.word_timestamps else None,
                # What a window draws at random must not depend on its neighbours.
                object() if options.temperature > 0 else None,
            )

    def detect_language(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        with _errors():
            base = self.variants.model(BASE)
            _encode(base, windows)
            return base.detect_languages(gathered([window.encoded for window in windows]))

    def decode(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        options = windows[0].options
        with _errors(), self.variants.in_use(options.adapter):
            variant = self._variant(options)
            _encode(self.variants.model(variant), windows)  # all variants of an adapter encode alike
            encoded = gathered([window.encoded for window in windows])
            prompts = [self._vocabulary.prompt_of(window.options) for window in windows]
            limits = [_limit(window.options, len(prompts[0])) for window in windows]
            with tracing.step("generate"):
                written = self._generate(variant, encoded, prompts, options, max(limits))
            model = self.variants.model(variant)
            hypotheses = [
                self._hypothesis(model, window, each, limit, max(limits))
                for window, each, limit in zip(windows, written, limits, strict=True)
            ]
            return (
                with_words(model, self._vocabulary, windows, hypotheses)
                if options.word_timestamps
                else hypotheses
            )

    def close(self) -> None:
        self.variants.loaded.clear()

    def _generate(
        self,
        variant: Variant,
        encoded: ctranslate2.StorageView,
        prompts: list[list[int]],
        options: DecodingOptions,
        limit: int,
    ) -> list[Generated]:
        """Generate texts for rows whose prompts have equal lengths."""
        never = self._never_in_times if options.timestamps else self._never

        def generate(model: CT2Model) -> list[Generated]:
            return model.generate(
                encoded,
                prompts,
                suppress=[*never, *self._vocabulary.suppressed_by(options.suppress)],
                limit=limit,
                beam_size=options.beam_size,
                temperature=options.temperature,
                n_prefix=len(options.prefix),
            )

        if options.temperature == 0:
            return generate(self.variants.model(variant))
        # CTranslate2 seeds a worker thread's generator once, at its first draw; a loaded model cannot be
        # seeded again. So each draw loads its own model, and the lock is held until the seed is used.
        with self._drawing:
            ctranslate2.set_random_seed(options.seed)
            return generate(self.variants.fresh(variant))

    def _hypothesis(
        self, model: CT2Model, window: EngineInput, written: Generated, limit: int, batch_limit: int
    ) -> Hypothesis:
        """Cut tokens at their limit, and before a loop that is not in the sound, and decode them to text.

        Args:
            written: Includes timestamp tokens where they were requested.
            batch_limit: Token limit that the batch was generated with, the largest of its windows'.
        """
        vocabulary, options = self._vocabulary, window.options
        n_written = len(written.tokens)
        whole = [*options.prefix, *written.tokens[:limit]]
        kept, looped = before_loop(whole, vocabulary.is_text)
        text_tokens = tuple(token for token in kept if vocabulary.is_text(token))
        heard_s = heard_frames(window.log_mel) / FRAMES_PER_S if options.timestamps else None
        hypothesis = Hypothesis(
            tokens=text_tokens,
            text=vocabulary.text(text_tokens),
            language=options.language or "",
            avg_logprob=written.sum_logprob / (n_written + (n_written < batch_limit)),
            no_speech_prob=written.no_speech_prob,
            looped=looped,
            truncated=not looped and n_written >= limit,
            sentences=() if heard_s is None else vocabulary.sentences(kept, heard_s),
        )
        tokens = [token for token in whole if vocabulary.is_text(token)]
        if not is_repetitive(vocabulary.text(tokens)):
            return hypothesis
        (words,) = timed_words(model, vocabulary, [window], [tokens], hypothesis.language)
        return weighed(hypothesis, words, window.log_mel, vocabulary, max_tokens=limit, is_timed=True)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn exceptions of CTranslate2, and of a late conversion, into `EngineError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"CTranslate2 failed: {error}") from error
    except StartupError as error:  # a model is converted when it is first needed
        raise EngineError(str(error)) from error


def _encode(model: CT2Model, windows: Sequence[EngineInput]) -> None:
    """Store encoder output on each window that has none yet."""
    fresh = [window for window in windows if window.encoded is None]
    if fresh:
        with tracing.step("encode"):
            encoded = model.encode(np.stack([window.log_mel for window in fresh]))
        for row, window in enumerate(fresh):
            window.encoded = (encoded, row)


def _limit(options: DecodingOptions, n_prompt: int) -> int:
    """Return the token limit of a window; word alignment needs one place of the context."""
    room = MAX_CONTEXT_TOKENS - n_prompt - options.word_timestamps
    return max(1, min(options.max_new_tokens, room))
