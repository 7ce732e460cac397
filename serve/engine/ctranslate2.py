"""The fast engine: Whisper in CTranslate2, the adapter merged into its weights before they are quantised.

    engine = CTranslate2Engine.load(base_dir, artifact, quantization="int8", n_threads=2)
    hypotheses = engine.transcribe_batch([log_mel], [DecodingOptions(language="mr")])

The base model alone is a second converted model, made and loaded when it is first asked for. torch,
transformers and peft are not imported unless a model has to be converted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import ctranslate2
import numpy as np
import numpy.typing as npt
from ctranslate2.models import Whisper

from serve.artifact import Artifact
from serve.decoding import decode_until_believed, measured
from serve.engine import DecodingOptions, Hypothesis, LogMel, Quantization
from serve.engine.adapter_rows import transcribe_by_adapter
from serve.engine.merging import Storage, converted_model
from serve.engine.repetition import RepetitionWatch
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.engine.words import heard_frames, word_times
from serve.errors import ConversionError, EngineError, StartupError
from serve.features import FRAMES_PER_S, pad_with_silence

MEDIAN_FILTER_POSITIONS = 7
"""Width of the filter that smooths cross-attention before words are timed (openai/whisper)."""

Compute = Literal["int8", "int8_float16", "float16", "float32"]

_LAYOUT: dict[tuple[Quantization, str], tuple[Storage, Compute]] = {
    ("int8", "cpu"): ("int8", "int8"),
    ("int8", "cuda"): ("int8", "int8_float16"),
    ("none", "cpu"): ("float32", "float32"),
    ("none", "cuda"): ("float16", "float16"),
}
"""Quantization and device -> how weights are kept on disk, and what is computed with."""


class CTranslate2Engine:
    """See `serve.engine.Engine`."""

    def __init__(
        self,
        directories: dict[bool, Callable[[], Path]],
        vocabulary: Vocabulary,
        *,
        device: str = "cpu",
        compute: Compute = "int8",
        n_threads: int = 1,
        fallback: bool = True,
    ) -> None:
        """Take what finds the converted model with an adapter (True), if any, and that without (False).

        Raises:
            StartupError: The one that is served cannot be found or loaded.
        """
        self._directories = directories
        self._vocabulary = vocabulary
        self._device = device
        self._compute = compute
        self._n_threads = n_threads
        self._fallback = fallback
        self._models: dict[bool, Whisper] = {}
        self._model(self.has_adapter)

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
    ) -> CTranslate2Engine:
        """Load what the cache holds of a base model and an artifact's adapter, first making what it lacks.

        Args:
            base_dir: The base model's transformers checkpoint.
            artifact: Holds the adapter; None serves the base model alone.
            quantization: `int8`, or `none`: fp32 on a CPU, fp16 on a GPU. It keeps no `int4`.
            n_threads: CPU threads of one window or batch.
            cache_dir: Where converted models are kept.
            fallback: Whether a window whose text is not believed is decoded again.

        Raises:
            ConversionError: A converted model can neither be found nor made.
            BaseModelError: The base model has no Whisper tokenizer.
        """
        device = "cuda" if ctranslate2.get_cuda_device_count() > 0 else "cpu"
        storage, compute = _LAYOUT[quantization, device]
        directories: dict[bool, Callable[[], Path]] = {
            False: lambda: converted_model(base_dir, None, storage, cache_dir=cache_dir)
        }
        if artifact is not None:
            directories[True] = lambda: converted_model(base_dir, artifact, storage, cache_dir=cache_dir)
        return cls(
            directories,
            Vocabulary.read(base_dir),
            device=device,
            compute=compute,
            n_threads=n_threads,
            fallback=fallback,
        )

    @property
    def languages(self) -> frozenset[str]:
        """Language codes the base model knows."""
        return frozenset(self._vocabulary.languages or {"en": 0})

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is merged into the served model."""
        return True in self._directories

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Name the option that cannot be served, and why; see `serve.engine.Engine`."""
        detects = self._models[self.has_adapter].is_multilingual or not self._vocabulary.languages
        if options.language is None and not detects:
            return "language", "this model's vocabulary is too small for detection: name a language"
        return self._vocabulary.unsupported(options)

    def transcribe_batch(
        self, log_mels: Sequence[LogMel], options: Sequence[DecodingOptions]
    ) -> list[Hypothesis]:
        """Decode windows together; see `serve.engine.Engine`."""
        try:
            return transcribe_by_adapter(log_mels, options, self.has_adapter, self._transcribe)
        except (RuntimeError, ValueError) as error:  # what CTranslate2 raises
            raise EngineError(f"CTranslate2 failed: {error}") from error
        except StartupError as error:  # the base alone is converted when it is first asked for
            raise EngineError(str(error)) from error

    def close(self) -> None:
        """Free the models."""
        self._models.clear()

    def _model(self, adapter: bool) -> Whisper:
        """Return the model with or without the adapter, loading it when it is first asked for."""
        if adapter not in self._models:
            self._models[adapter] = self._loaded(adapter)
        return self._models[adapter]

    def _loaded(self, adapter: bool) -> Whisper:
        directory = self._directories[adapter]()
        try:
            return Whisper(
                str(directory),
                device=self._device,
                compute_type=self._compute,
                inter_threads=1,
                intra_threads=self._n_threads,
            )
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"{directory} cannot be loaded by CTranslate2: {error}") from error

    def _transcribe(
        self, adapter: bool, log_mels: Sequence[LogMel], options: Sequence[DecodingOptions]
    ) -> list[Hypothesis]:
        """Decode rows that are all for the adapter, or all for the base model alone."""
        model = self._model(adapter)
        n_frames = max(log_mel.shape[1] for log_mel in log_mels)
        batch = np.stack([pad_with_silence(log_mel, n_frames) for log_mel in log_mels])
        encoded = EncoderOutput(model.encode(ctranslate2.StorageView.from_array(batch)), len(log_mels))
        languages = self._languages_of(model, encoded, options)

        def decode(rows: list[int], tried: list[DecodingOptions]) -> list[Hypothesis]:
            return self._decode(adapter, encoded, rows, tried, languages, log_mels)

        if self._fallback:
            hypotheses = decode_until_believed(options, decode)
        else:
            found = decode(list(range(len(options))), list(options))
            hypotheses = [
                measured(hypothesis, option.temperature)
                for hypothesis, option in zip(found, options, strict=True)
            ]
        return self._with_words(model, encoded, hypotheses, options, log_mels)

    def _languages_of(
        self, model: Whisper, encoded: EncoderOutput, options: Sequence[DecodingOptions]
    ) -> list[tuple[str, float | None]]:
        """Return each row's language, detected where the caller named none."""
        if not self._vocabulary.languages:
            return [("en", None)] * len(options)
        languages: list[tuple[str, float | None]] = [(option.language or "", None) for option in options]
        unnamed = [row for row, option in enumerate(options) if option.language is None]
        if unnamed:
            for row, ranking in zip(unnamed, model.detect_language(encoded.rows(unnamed)), strict=True):
                token, probability = ranking[0]
                languages[row] = (token[2:-2], probability)
        return languages

    def _decode(
        self,
        adapter: bool,
        encoded: EncoderOutput,
        rows: Sequence[int],
        options: Sequence[DecodingOptions],
        languages: Sequence[tuple[str, float | None]],
        log_mels: Sequence[LogMel],
    ) -> list[Hypothesis]:
        """Decode rows once, those together that one call can serve."""
        prompts = [
            self._vocabulary.prompt_of(option, languages[row][0])
            for row, option in zip(rows, options, strict=True)
        ]
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, (option, prompt) in enumerate(zip(options, prompts, strict=True)):
            # Rows that draw are decoded alone: what one of them draws must not depend on its neighbours.
            alone = index if option.temperature > 0 else None
            groups[
                len(prompt), option.timestamps, option.beam_size, option.temperature, option.suppress, alone
            ].append(index)

        hypotheses: dict[int, Hypothesis] = {}
        for indices in groups.values():
            option = options[indices[0]]
            limits = [self._limit(options[index], len(prompts[index])) for index in indices]
            draws = option.temperature > 0
            found = self._generate(
                self._drawing_model(adapter, option.seed) if draws else self._model(adapter),
                encoded.rows([rows[index] for index in indices]),
                [prompts[index] for index in indices],
                option,
                max(limits),
            )
            for index, (tokens, sum_logprob, no_speech_prob), limit in zip(
                indices, found, limits, strict=True
            ):
                row = rows[index]
                language, language_prob = languages[row]
                hypotheses[index] = self._hypothesis(
                    tokens,
                    Hypothesis(
                        tokens=(),
                        text="",
                        language=language,
                        language_prob=language_prob,
                        avg_logprob=sum_logprob / (len(tokens) + (len(tokens) < max(limits))),
                        no_speech_prob=no_speech_prob,
                    ),
                    limit,
                    heard_frames(log_mels[row]) / FRAMES_PER_S if option.timestamps else None,
                )
        return [hypotheses[index] for index in range(len(options))]

    def _drawing_model(self, adapter: bool, seed: int) -> Whisper:
        """Return a model of its own whose draws begin at `seed`.

        CTranslate2 seeds the generator of a worker thread once, when it first draws; a loaded model cannot go
        back to a seed.
        """
        ctranslate2.set_random_seed(seed)
        return self._loaded(adapter)

    def _limit(self, option: DecodingOptions, n_prompt: int) -> int:
        """Return the most tokens a row may have; one place of the context is kept for timing its words."""
        room = MAX_CONTEXT_TOKENS - n_prompt - option.word_timestamps
        return max(1, min(option.max_new_tokens, room))

    def _generate(
        self,
        model: Whisper,
        encoder_output: ctranslate2.StorageView,
        prompts: list[list[int]],
        option: DecodingOptions,
        limit: int,
    ) -> list[tuple[list[int], float, float]]:
        """Decode rows with prompts of one length: tokens, sum of log-probabilities, no-speech probability."""
        results = model.generate(
            encoder_output,
            prompts,
            beam_size=option.beam_size,
            # CTranslate2 divides a score by the number of tokens, of which an empty text has none: so sums
            # are asked for, of all texts kept, and the best mean is found here.
            num_hypotheses=option.beam_size,
            length_penalty=0,
            return_scores=True,
            return_no_speech_prob=True,
            # It allows min(max_length / 2, max_length - prompt) tokens, which is to be `limit`.
            max_length=max(2 * limit, limit + len(prompts[0])),
            suppress_tokens=self._suppressed(option),
            sampling_topk=0 if option.temperature > 0 else 1,
            sampling_temperature=option.temperature or 1.0,
        )
        found = []
        for result in results:
            texts = list(zip(result.sequences_ids, result.scores, strict=True))
            tokens, score = max(texts, key=lambda text: text[1] / (len(text[0]) + 1))
            found.append((tokens, score, result.no_speech_prob))
        return found

    def _suppressed(self, option: DecodingOptions) -> list[int]:
        vocabulary = self._vocabulary
        never = vocabulary.suppressed
        if option.timestamps:
            never = never[never <= vocabulary.no_timestamps]
        return [*never.tolist(), *vocabulary.suppressed_by(option.suppress)]

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
        model: Whisper,
        encoded: EncoderOutput,
        hypotheses: list[Hypothesis],
        options: Sequence[DecodingOptions],
        log_mels: Sequence[LogMel],
    ) -> list[Hypothesis]:
        """Add the times of words where they were asked for."""
        vocabulary = self._vocabulary
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, (hypothesis, option) in enumerate(zip(hypotheses, options, strict=True)):
            if option.word_timestamps and hypothesis.tokens:
                start = vocabulary.prompt(hypothesis.language, option.task, timestamps=True)
                groups[tuple(start)].append(row)
        timed = list(hypotheses)
        for start_sequence, rows in groups.items():
            n_frames = [heard_frames(log_mels[row]) for row in rows]
            alignments = model.align(
                encoded.rows(rows),
                list(start_sequence),
                [list(hypotheses[row].tokens) for row in rows],
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


class EncoderOutput:
    """What the encoder made of a batch, (n_rows, n_frames / 2, d_model), and parts of it."""

    def __init__(self, whole: ctranslate2.StorageView, n_rows: int) -> None:
        self._whole = whole
        self._n_rows = n_rows
        self._on_cpu: npt.NDArray[np.floating] | None = None

    def rows(self, rows: Sequence[int]) -> ctranslate2.StorageView:
        """Return some rows; all of them, in order, are not copied."""
        if list(rows) == list(range(self._n_rows)):
            return self._whole
        if self._on_cpu is None:
            self._on_cpu = np.asarray(self._whole.to_device(ctranslate2.Device.cpu))
        return ctranslate2.StorageView.from_array(np.ascontiguousarray(self._on_cpu[list(rows)]))


def _before_loop(tokens: list[int], vocabulary: Vocabulary) -> tuple[list[int], bool]:
    """Return the tokens up to the first round of a loop, and whether there is one; times do not count."""
    watch = RepetitionWatch()
    text_places = [place for place, token in enumerate(tokens) if vocabulary.is_text(token)]
    for place in text_places:
        if (n_kept := watch.push(tokens[place])) is not None:
            return tokens[: text_places[n_kept]], True
    return tokens, False
