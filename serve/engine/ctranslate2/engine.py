"""The fast engine: Whisper in CTranslate2, the adapter merged into its weights before they are quantised.

    engine = CTranslate2Engine.load(base_dir, artifact, quantization="int8", n_threads=2)
    hypotheses = engine.transcribe_batch([log_mel], [DecodingOptions(language="mr")])

Up to three converted models serve an adapter: one with the tokens of its scripts alone, for windows in its
own language; one with all tokens, for what the first cannot read or write; and the base model alone. Each is
made and loaded when it is first asked for. Further adapters have models of their own beside these, loaded and
freed while others decode. torch, transformers and peft are not imported unless a model has to be converted.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import ctranslate2
import numpy as np

from serve.audio.features import pad_with_silence
from serve.audio.samples import FRAMES_PER_S
from serve.engine import (
    CPU_BATCH,
    GPU_BATCH,
    SERVED_ADAPTER,
    BatchSize,
    DecodingOptions,
    Hypothesis,
    LogMel,
    Quantization,
)
from serve.engine.batch_rows import transcribe_rows
from serve.engine.ctranslate2.merging import WEIGHTS, Storage, converted_model
from serve.engine.ctranslate2.model import CT2Model, EncoderOutput, Generated
from serve.engine.fallback import decode_until_believed, measured
from serve.engine.repetition import RepetitionWatch
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.engine.words import heard_frames, word_times
from serve.errors import EngineError, StartupError
from serve.model.artifact import Artifact

MEDIAN_FILTER_POSITIONS = 7
"""Width of the filter that smooths cross-attention before words are timed (openai/whisper)."""

MULTILINGUAL_TOKENS = 51_865
"""CTranslate2 detects languages with vocabularies of this size and larger."""

SMALL_MODEL_WIDTH = 768
"""Up to whisper-small a second thread gains nothing: the step of decoding is too short to be shared out."""

LARGE_MODEL_THREADS = 4
MAX_WORKERS = 8

Compute = Literal["int8", "int8_float16", "float16", "float32"]

_LAYOUT: dict[tuple[Quantization, str], tuple[Storage, Compute]] = {
    ("int8", "cpu"): ("int8", "int8"),
    ("int8", "cuda"): ("int8", "int8_float16"),
    ("none", "cpu"): ("float32", "float32"),
    ("none", "cuda"): ("float16", "float16"),
}
"""Quantization and device -> how weights are kept on disk, and what is computed with."""


@dataclass(frozen=True)
class Variant:
    """One of the converted models."""

    adapter: str | None
    """Key; None of the base model alone."""
    few_tokens: bool = False


BASE = Variant(None)
ADAPTED, FEW_TOKENS = Variant(SERVED_ADAPTER), Variant(SERVED_ADAPTER, few_tokens=True)

Find = Callable[[], Path]
"""Returns the directory of a converted model, first making it where there is none."""

Convert = Callable[[Artifact, bool], Find]
"""Says how to find the model of an adapter; with the tokens of its scripts alone, or with all."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How a model's threads are used: each worker decodes batches of its own."""

    count: int = 1
    threads: int = 1
    """Of each."""

    @classmethod
    def of(cls, d_model: int, n_threads: int, device: str) -> Workers:
        """Share threads out: a GPU takes one batch at a time, a CPU as many as do not hold each other up."""
        if device == "cuda":
            return cls(threads=n_threads)
        threads = 1 if d_model <= SMALL_MODEL_WIDTH else min(n_threads, LARGE_MODEL_THREADS)
        return cls(count=min(MAX_WORKERS, n_threads // threads), threads=threads)


class CTranslate2Engine:
    """See `serve.engine.Engine`."""

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
        fallback: bool = True,
    ) -> None:
        """Take what finds each converted model that there can be, and load the one that is asked for most.

        Args:
            directories: `BASE` always, `ADAPTED` where there is an adapter, `FEW_TOKENS` where its scripts
                are known.
            vocabulary: Of the base model.
            language: The adapter's own, in which it writes with few tokens.
            convert: How to find the models of further adapters; None takes none.
            preload: False loads nothing yet.
            device: `cpu` or `cuda`.
            compute: What is computed with.
            workers: How many batches are decoded side by side.
            fallback: Whether a window whose text is not believed is decoded again.

        Raises:
            StartupError: The model cannot be found or loaded.
        """
        self._directories = directories
        self._vocabulary = vocabulary
        self._never: list[int] = vocabulary.suppressed.tolist()
        self._never_in_times = [token for token in self._never if token <= vocabulary.no_timestamps]
        self._languages: dict[str, str | None] = {SERVED_ADAPTER: language}
        self._convert = convert
        self._device = device
        self._compute = compute
        self._workers = workers or Workers()
        self._fallback = fallback
        self._models: dict[Variant, CT2Model] = {}
        self._loading: dict[Variant, threading.Lock] = defaultdict(threading.Lock)
        self._drawing = threading.Lock()
        self._running: Counter[str | None] = Counter()  # batches by adapter
        self._changed = threading.Condition()
        if preload:
            self._model(self._usual(SERVED_ADAPTER if self.has_adapter else None))

    @classmethod
    def load(
        cls,
        base_dir: Path,
        artifact: Artifact | None = None,
        *,
        quantization: Quantization = "int8",
        n_threads: int = 1,
        cache_dir: Path | None = None,
        fallback: bool = True,
        preload: bool = True,
    ) -> CTranslate2Engine:
        """Load what the cache holds of a base model and an artifact's adapter, first making what it lacks.

        Args:
            base_dir: The base model's transformers checkpoint.
            artifact: Holds the adapter; None serves the base model alone.
            quantization: `int8`, or `none`: fp32 on a CPU, fp16 on a GPU. It keeps no `int4`.
            n_threads: CPU threads of all batches together.
            cache_dir: Where converted models are kept.
            fallback: Whether a window whose text is not believed is decoded again.
            preload: False loads nothing yet.

        Raises:
            ConversionError: A converted model can neither be found nor made.
            BaseModelError: The base model has no Whisper tokenizer.
        """
        device = "cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"
        storage, compute = _LAYOUT[quantization, device]
        d_model = json.loads((base_dir / "config.json").read_bytes()).get("d_model", 0)

        def find(adapted: Artifact | None, scripts: Sequence[str] | None = None) -> Find:
            return lambda: converted_model(base_dir, adapted, storage, scripts=scripts, cache_dir=cache_dir)

        def convert(adapted: Artifact, few_tokens: bool) -> Find:
            return find(adapted, adapted.manifest.scripts if few_tokens else None)

        directories = {BASE: find(None)}
        if artifact is not None:
            directories |= _directories(SERVED_ADAPTER, artifact, convert)
        return cls(
            directories,
            Vocabulary.read(base_dir),
            language=artifact.manifest.language if artifact is not None else None,
            convert=convert,
            preload=preload,
            device=device,
            compute=compute,
            workers=Workers.of(d_model, n_threads, device),
            fallback=fallback,
        )

    @property
    def languages(self) -> frozenset[str]:
        """Language codes the base model knows."""
        return frozenset(self._vocabulary.languages or {"en": 0})

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is merged into the served model."""
        return ADAPTED in self._directories

    @property
    def n_workers(self) -> int:
        """Batches that are decoded side by side."""
        return self._workers.count

    @property
    def usual_batch(self) -> BatchSize:
        """The largest batch that is worth its wait; see `serve.engine.Engine`."""
        return GPU_BATCH if self._device == "cuda" else CPU_BATCH

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Name the option that cannot be served, and why; see `serve.engine.Engine`."""
        detects = self._vocabulary.size >= MULTILINGUAL_TOKENS or not self._vocabulary.languages
        if options.language is None and not detects:
            return "language", "this model's vocabulary is too small for detection: name a language"
        return self._vocabulary.unsupported(options)

    def adapter_bytes(self, artifact: Artifact) -> int:
        """Return the size of its usual model's weights; see `serve.engine.Engine`."""
        assert self._convert is not None
        return _weights_bytes(self._convert(artifact, _writes_few_tokens(artifact))())

    def base_bytes(self) -> int:
        """Return what it takes once it is loaded; see `serve.engine.Engine`."""
        return _weights_bytes(self._directories[BASE]()) if BASE in self._models else 0

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        """Load the model of a further adapter; see `serve.engine.Engine`."""
        assert self._convert is not None
        self._languages[key] = artifact.manifest.language
        self._directories |= _directories(key, artifact, self._convert)
        self._model(self._usual(key))

    def unload_adapter(self, key: str) -> None:
        """Free the models of an adapter; see `serve.engine.Engine`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running[key])
        for variant in (Variant(key), Variant(key, few_tokens=True)):
            self._models.pop(variant, None)
            self._directories.pop(variant, None)
            self._loading.pop(variant, None)
        self._languages.pop(key, None)
        self._running.pop(key, None)

    def bytes_to_load(self, options: DecodingOptions) -> int:
        """Return the size of the weights of models that are not loaded; see `serve.engine.Engine`."""
        missing = [variant for variant in self._needed(options) if variant not in self._models]
        return sum(_weights_bytes(self._directories[variant]()) for variant in missing)

    def make_ready(self, options: DecodingOptions) -> None:
        """Load every model that the options may need; see `serve.engine.Engine`."""
        for variant in self._needed(options):
            self._model(variant)

    def _needed(self, options: DecodingOptions) -> list[Variant]:
        adapter = None if options.adapter == SERVED_ADAPTER and not self.has_adapter else options.adapter
        needed = [BASE] if adapter is None or options.language is None else []
        if adapter is not None:
            language = options.language or options.expected_language
            needed.append(self._variant(adapter, replace(options, language=language)))
        return needed

    def transcribe_batch(
        self, log_mels: Sequence[LogMel], options: Sequence[DecodingOptions]
    ) -> list[Hypothesis]:
        """Decode windows together; see `serve.engine.Engine`."""
        with self._at_work({option.adapter for option in options}):
            return self._transcribe_batch(log_mels, options)

    @contextmanager
    def _at_work(self, adapters: set[str | None]) -> Iterator[None]:
        with self._changed:
            self._running.update(adapters)
        try:
            yield
        finally:
            with self._changed:
                self._running.subtract(adapters)
                self._changed.notify_all()

    def _transcribe_batch(
        self, log_mels: Sequence[LogMel], options: Sequence[DecodingOptions]
    ) -> list[Hypothesis]:
        try:
            return transcribe_rows(
                log_mels,
                options,
                has_adapter=self.has_adapter,
                only_language=self._vocabulary.only_language,
                detect=self._detect,
                transcribe=self._transcribe,
            )
        except (RuntimeError, ValueError) as error:  # what CTranslate2 raises
            raise EngineError(f"CTranslate2 failed: {error}") from error
        except StartupError as error:  # a model is converted when it is first asked for
            raise EngineError(str(error)) from error

    def close(self) -> None:
        """Free the models."""
        self._models.clear()

    def _model(self, variant: Variant) -> CT2Model:
        """Return a model, loading it when it is first asked for."""
        if (model := self._models.get(variant)) is not None:
            return model
        with self._changed:
            loading = self._loading[variant]  # one that takes long holds up nobody who wants another
        with loading:
            if variant not in self._models:
                self._models[variant] = self._loaded(variant, self._workers)
            return self._models[variant]

    def _usual(self, adapter: str | None) -> Variant:
        """Return the model that is asked for most."""
        few_tokens = Variant(adapter, few_tokens=True)
        return few_tokens if few_tokens in self._directories else Variant(adapter)

    def _loaded(self, variant: Variant, workers: Workers) -> CT2Model:
        return CT2Model(
            self._directories[variant](),
            device=self._device,
            compute=self._compute,
            n_workers=workers.count,
            threads_per_worker=workers.threads,
        )

    def _detect(self, log_mels: list[LogMel]) -> tuple[EncoderOutput, list[tuple[str, float]]]:
        base = self._model(BASE)
        encoded = base.encode(np.stack(log_mels))
        return encoded, base.detect_languages(encoded.whole)

    def _transcribe(
        self,
        adapter: str | None,
        log_mels: list[LogMel],
        options: list[DecodingOptions],
        encoded: EncoderOutput | None,
    ) -> list[Hypothesis]:
        """Decode rows that are all for the adapter, or all for the base model alone."""
        variants = [self._variant(adapter, option) for option in options]
        if encoded is None:
            n_frames = max(log_mel.shape[1] for log_mel in log_mels)
            batch = np.stack([pad_with_silence(log_mel, n_frames) for log_mel in log_mels])
            encoded = self._model(variants[0]).encode(batch)  # all variants of an adapter encode alike

        def decode(rows: list[int], tried: list[DecodingOptions]) -> list[Hypothesis]:
            return self._decode([variants[row] for row in rows], encoded, rows, tried, log_mels)

        if self._fallback:
            hypotheses = decode_until_believed(options, decode)
        else:
            found = decode(list(range(len(options))), list(options))
            hypotheses = [
                measured(hypothesis, option.temperature)
                for hypothesis, option in zip(found, options, strict=True)
            ]
        return self._with_words(variants, encoded, hypotheses, options, log_mels)

    def _variant(self, adapter: str | None, option: DecodingOptions) -> Variant:
        """Choose the model for a window: that with few tokens where it can read and write all it needs."""
        usual = self._usual(adapter)
        if adapter is None or not usual.few_tokens:
            return usual
        if option.language != self._languages[adapter] or option.task != "transcribe":
            return Variant(adapter)
        if not (option.prompt or option.hotwords):  # special tokens alone, which all have
            return usual
        readable = self._model(usual).can_read(self._vocabulary.prompt_of(option, option.language))
        return usual if readable else Variant(adapter)

    def _decode(
        self,
        variants: Sequence[Variant],
        encoded: EncoderOutput,
        rows: Sequence[int],
        options: Sequence[DecodingOptions],
        log_mels: Sequence[LogMel],
    ) -> list[Hypothesis]:
        """Decode rows once, those together that one call can serve."""
        prompts = [self._vocabulary.prompt_of(option, option.language) for option in options]
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (variant, option, prompt) in enumerate(zip(variants, options, prompts, strict=True)):
            # Rows that draw are decoded alone: what one of them draws must not depend on its neighbours.
            alone = index if option.temperature > 0 else None
            key = (variant, len(prompt), option.timestamps, option.beam_size, option.suppress, alone)
            groups[key].append(index)

        hypotheses: dict[int, Hypothesis] = {}
        for indices in groups.values():
            option = options[indices[0]]
            limits = [self._limit(options[index], len(prompts[index])) for index in indices]
            found = self._generate(
                variants[indices[0]],
                encoded.rows([rows[index] for index in indices]),
                [prompts[index] for index in indices],
                option,
                max(limits),
            )
            for index, written, limit in zip(indices, found, limits, strict=True):
                row = rows[index]
                n_tokens = len(written.tokens)
                hypotheses[index] = self._hypothesis(
                    written.tokens,
                    Hypothesis(
                        tokens=(),
                        text="",
                        language=options[index].language or "",
                        language_prob=None,
                        avg_logprob=written.sum_logprob / (n_tokens + (n_tokens < max(limits))),
                        no_speech_prob=written.no_speech_prob,
                    ),
                    limit,
                    heard_frames(log_mels[row]) / FRAMES_PER_S if option.timestamps else None,
                )
        return [hypotheses[index] for index in range(len(options))]

    def _generate(
        self,
        variant: Variant,
        encoder_output: ctranslate2.StorageView,
        prompts: list[list[int]],
        option: DecodingOptions,
        limit: int,
    ) -> list[Generated]:
        """Write texts for rows with prompts of one length."""

        def generate(model: CT2Model) -> list[Generated]:
            return model.generate(
                encoder_output,
                prompts,
                suppress=self._suppressed(option),
                limit=limit,
                beam_size=option.beam_size,
                temperature=option.temperature,
            )

        if option.temperature == 0:
            return generate(self._model(variant))
        # CTranslate2 seeds the generator of a worker thread once, when it first draws; a loaded model cannot
        # go back to a seed. So each draw has a model of its own, and the seed is held until it is used.
        with self._drawing:
            ctranslate2.set_random_seed(option.seed)
            return generate(self._loaded(variant, Workers(threads=self._workers.threads)))

    def _limit(self, option: DecodingOptions, n_prompt: int) -> int:
        """Return the most tokens a row may have; one place of the context is kept for timing its words."""
        room = MAX_CONTEXT_TOKENS - n_prompt - option.word_timestamps
        return max(1, min(option.max_new_tokens, room))

    def _suppressed(self, option: DecodingOptions) -> list[int]:
        never = self._never_in_times if option.timestamps else self._never
        return [*never, *self._vocabulary.suppressed_by(option.suppress)] if option.suppress else never

    def _hypothesis(
        self, tokens: list[int], scored: Hypothesis, limit: int, heard_s: float | None
    ) -> Hypothesis:
        """Cut tokens to their limit and before a loop, and write them as text.

        Args:
            tokens: As generated, timestamps among them where they were asked for.
            scored: Everything that does not depend on the tokens.
            limit: Most tokens of this row; those of its neighbours may be higher.
            heard_s: Seconds of the window in which something is heard, where timestamps were asked for.
        """
        vocabulary = self._vocabulary
        kept, looped = _before_loop(tokens[:limit], vocabulary)
        text_tokens = tuple(token for token in kept if vocabulary.is_text(token))
        return replace(
            scored,
            tokens=text_tokens,
            text=vocabulary.text(text_tokens),
            looped=looped,
            truncated=not looped and len(kept) >= limit,
            sentences=() if heard_s is None else vocabulary.sentences(kept, heard_s),
        )

    def _with_words(
        self,
        variants: Sequence[Variant],
        encoded: EncoderOutput,
        hypotheses: list[Hypothesis],
        options: Sequence[DecodingOptions],
        log_mels: Sequence[LogMel],
    ) -> list[Hypothesis]:
        """Add the times of words where they were asked for."""
        vocabulary = self._vocabulary
        groups: dict[tuple[Variant, tuple[int, ...]], list[int]] = defaultdict(list)
        for row, (hypothesis, option) in enumerate(zip(hypotheses, options, strict=True)):
            if option.word_timestamps and hypothesis.tokens:
                start = vocabulary.prompt(hypothesis.language, option.task, timestamps=True)
                groups[variants[row], tuple(start)].append(row)
        timed = list(hypotheses)
        for (variant, start_sequence), rows in groups.items():
            n_frames = [heard_frames(log_mels[row]) for row in rows]
            alignments = self._model(variant).align(
                encoded.rows(rows),
                start_sequence,
                [hypotheses[row].tokens for row in rows],
                n_frames,
                median_filter_width=MEDIAN_FILTER_POSITIONS,
            )
            for row, alignment, heard in zip(rows, alignments, n_frames, strict=True):
                words = word_times(
                    hypotheses[row].tokens,
                    hypotheses[row].language,
                    vocabulary,
                    path=alignment.alignments,
                    token_probs=alignment.text_token_probs,
                    n_frames=heard,
                )
                timed[row] = replace(hypotheses[row], words=words)
        return timed


def _directories(key: str, artifact: Artifact, convert: Convert) -> dict[Variant, Find]:
    found = {Variant(key): convert(artifact, False)}
    if _writes_few_tokens(artifact):
        found[Variant(key, few_tokens=True)] = convert(artifact, True)
    return found


def _writes_few_tokens(artifact: Artifact) -> bool:
    return artifact.manifest.few_token_scripts is not None


def _weights_bytes(directory: Path) -> int:
    return (directory / WEIGHTS).stat().st_size


def _before_loop(tokens: list[int], vocabulary: Vocabulary) -> tuple[list[int], bool]:
    """Return the tokens up to the first round of a loop, and whether there is one; times do not count."""
    watch = RepetitionWatch()
    text_places = [place for place, token in enumerate(tokens) if vocabulary.is_text(token)]
    for place in text_places:
        if (n_kept := watch.push(tokens[place])) is not None:
            return tokens[: text_places[n_kept]], True
    return tokens, False
