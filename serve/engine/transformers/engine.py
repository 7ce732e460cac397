"""The reference engine: a transformers Whisper, quantised by bitsandbytes, its LoRA adapter attached by peft.

    engine = TransformersEngine.load(base_dir, adapter_dir, quantization="int8", n_threads=2, dynamic=True)
    (hypothesis,) = engine.decode([EngineInput(log_mel=log_mel, options=DecodingOptions(language="mr"))])

Adapters stay beside a quantised base, because merging into int8 weights changes the output. With an
unquantised base, the adapter in use is merged into the fp32 weights, which saves two small products per layer
and step; it is unmerged for requests to another adapter or to the base. All adapters share the base.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

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
from serve.engine.copies import is_repetitive, sound_repeats, weighed
from serve.engine.repetition import before_loop
from serve.engine.transformers.adapter import attach_adapter, detach_adapters, is_of_adapter, load_base
from serve.engine.transformers.cached_decoder import CachedDecoder, detection_logits
from serve.engine.transformers.int8_layers import keep_scales
from serve.engine.transformers.quiet import quiet_libraries
from serve.engine.transformers.search import Row, SearchRules, search
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.engine.words import guessed_times, heard_frames
from serve.errors import ArtifactError
from serve.model.adapter_tensors import check_adapter
from serve.model.artifact import ADAPTER_WEIGHTS, Artifact


class TransformersEngine(Engine):
    """Implements `serve.engine.Engine`."""

    def __init__(
        self,
        model: WhisperForConditionalGeneration | PeftModel,
        vocabulary: Vocabulary,
        *,
        merge: bool,
    ) -> None:
        """Wrap a loaded model.

        Args:
            merge: Whether the adapter may be merged into the weights.
        """
        self._adapted = model if isinstance(model, PeftModel) else None
        whisper = model.get_base_model() if isinstance(model, PeftModel) else model
        assert isinstance(whisper, WhisperForConditionalGeneration)
        self._model = whisper
        self._vocabulary = vocabulary
        self._decoder = CachedDecoder(whisper)
        self._merges = merge
        self._merged: str | None = None
        self._names = {SERVED_ADAPTER: model.active_adapter} if isinstance(model, PeftModel) else {}
        self._n_named = 0
        self._never_silent: set[str] = set()  # keys of adapters that may not return an empty text
        self._turn = threading.RLock()  # adapters share modules: change them between batches
        self._rules = {tuned: self._search_rules(tuned) for tuned in (True, False)}

    @classmethod
    def load(
        cls,
        base_dir: Path,
        adapter_dir: Path | None = None,
        *,
        quantization: Quantization = "int8",
        n_threads: int = 1,
        dynamic: bool = False,
        may_be_silent: bool = True,
    ) -> TransformersEngine:
        """Load a checkpoint and an adapter.

        Args:
            adapter_dir: A peft adapter in safetensors; None serves the base model alone.
            quantization: Storage of the base's linear layers: bitsandbytes int8 or nf4, or unquantised
                (fp32 on a CPU, fp16 on a GPU).
            n_threads: CPU threads of one matrix product; set for the whole process.
            dynamic: Whether windows may be shorter than 30 s.
            may_be_silent: Whether the adapter may answer with an empty text.

        Raises:
            BaseModelError: The checkpoint cannot be loaded.
            ArtifactError: The adapter cannot be loaded, or does not fit the base.
        """
        torch.set_num_threads(n_threads)
        quiet_libraries()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        model = load_base(
            base_dir,
            dtype=dtype,
            attn_implementation="sdpa",
            device_map={"": device},
            quantization_config=_bitsandbytes_config(quantization, dtype),
        )
        keep_scales(model)
        vocabulary = Vocabulary.read(base_dir)
        if dynamic:
            # Imported here so that a model with fixed windows does not depend on it.
            from serve.engine.transformers.encoder_context import enable_dynamic_context

            enable_dynamic_context(model)
        model.eval()  # type: ignore[no-untyped-call]
        merge = quantization == "none" and dtype == torch.float32
        if adapter_dir is None:
            return cls(model, vocabulary, merge=merge)
        check_adapter(adapter_dir, base_dir)
        engine = cls(attach_adapter(model, adapter_dir), vocabulary, merge=merge)
        if not may_be_silent:
            engine._never_silent.add(SERVED_ADAPTER)
        return engine

    @property
    def languages(self) -> frozenset[str]:
        return frozenset(self._vocabulary.languages or {"en": 0})

    @property
    def has_adapter(self) -> bool:
        return SERVED_ADAPTER in self._names

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        if options.beam_size > 1:
            return "beam_size", "only 1, greedy search, is supported by the transformers engine"
        for name in ("timestamps", "word_timestamps"):
            if getattr(options, name):
                return name, "not supported by the transformers engine"
        return self._vocabulary.unsupported(options)

    def adapter_bytes(self, artifact: Artifact) -> int:
        """Return the size of the adapter's parameters in fp32."""
        if artifact.kind in ("checkpoint", "ctranslate2"):
            raise ArtifactError(artifact.path, "is a whole model, which needs the engine ctranslate2")
        with safe_open(artifact.adapter_dir / ADAPTER_WEIGHTS, framework="np") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        n_parameters: int = sum(math.prod(shape) for shape in shapes)
        return n_parameters * torch.float32.itemsize

    def base_bytes(self) -> int:
        parameters = [each for name, each in self._model.named_parameters() if not is_of_adapter(name)]
        return sum(each.numel() * each.element_size() for each in parameters)

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        with self._turn:
            self._n_named += 1
            name = f"adapter{self._n_named}"
            self._unmerge()
            if artifact.manifest.encoder_context == "dynamic":
                from serve.engine.transformers.encoder_context import enable_dynamic_context

                enable_dynamic_context(self._model)
            if self._adapted is None:
                self._adapted = attach_adapter(self._model, artifact.adapter_dir, name)
            else:
                attach_adapter(self._adapted, artifact.adapter_dir, name)
            self._names[key] = name
            if not artifact.may_be_silent:
                self._never_silent.add(key)
            self._decoder = CachedDecoder(self._model)  # layers may have been replaced

    def unload_adapter(self, key: str) -> None:
        with self._turn:
            if (name := self._names.pop(key, None)) is not None:
                self._unmerge()
                assert self._adapted is not None
                if not self._names:  # a PeftModel needs at least one adapter
                    detach_adapters(self._adapted)
                    self._adapted = None
                    self._decoder = CachedDecoder(self._model)
                    return
                if self._adapted.active_adapter == name:  # else peft chooses one, and warns
                    self._adapted.set_adapter(next(iter(self._names.values())), inference_mode=True)
                self._adapted.delete_adapter(name)

    def bytes_to_load(self, options: DecodingOptions) -> int:
        """Return 0: base and adapters are already loaded."""
        return 0

    def make_ready(self, options: DecodingOptions) -> None:
        """Do nothing: base and adapters are already loaded."""

    def kind(self, window: EngineInput) -> Hashable:
        options = window.options
        n_prompt = len(self._vocabulary.prompt_of(options))
        return options.adapter, window.n_frames, n_prompt, options.suppress, bool(options.prefix)

    def detect_language(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        vocabulary = self._vocabulary
        codes = list(vocabulary.languages)
        with self._turn, self._adapter(None), torch.inference_mode():
            state = self._decoder.begin(self._encode(windows), max_tokens=1)
            logits = detection_logits(self._decoder, state, vocabulary.start)
            probabilities = logits[:, list(vocabulary.languages.values())].float().softmax(dim=-1)
        return [dict(zip(codes, row, strict=True)) for row in probabilities.tolist()]

    def decode(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        vocabulary = self._vocabulary
        options = windows[0].options
        prompts = [vocabulary.prompt_of(window.options) for window in windows]
        n_prompt = len(prompts[0])
        rows = [_row(window, n_prompt) for window in windows]
        may_be_silent = options.adapter is not None and options.adapter not in self._never_silent
        rules = self._rules[may_be_silent].without(vocabulary.suppressed_by(options.suppress))
        rules = rules.going_on() if options.prefix else rules
        with self._turn, self._adapter(options.adapter), torch.inference_mode():
            with tracing.step("encode"):
                encoder_output = self._encode(windows)
            state = self._decoder.begin(encoder_output, n_prompt + max(row.max_new_tokens for row in rows))
            tokens = torch.tensor(prompts, device=encoder_output.device)
            with tracing.step("generate"):
                search(self._decoder, state, tokens, prompts[0].index(vocabulary.start), rows, rules)
        return [self._hypothesis(window, row) for window, row in zip(windows, rows, strict=True)]

    def _hypothesis(self, window: EngineInput, row: Row) -> Hypothesis:
        """Cut a row before a loop, unless the sound repeats itself as well, and write it as text."""
        vocabulary, language = self._vocabulary, window.options.language or ""
        whole = [*window.options.prefix, *row.tokens]
        kept, looped = before_loop(whole, vocabulary.is_text)
        hypothesis = Hypothesis(
            tokens=tuple(kept),
            text=vocabulary.text(kept),
            language=language,
            avg_logprob=row.avg_logprob,
            no_speech_prob=row.no_speech_prob,
            truncated=row.truncated and not looped,
            looped=looped,
        )
        is_even = not is_repetitive(vocabulary.text(whole))
        if is_even and not window.options.guesses_words:
            return hypothesis
        n_frames = heard_frames(window.log_mel)
        words = guessed_times(kept if is_even else whole, language, vocabulary, n_frames=n_frames)
        if is_even:
            return replace(hypothesis, words=words)
        limit = row.max_new_tokens
        return weighed(hypothesis, words, window.log_mel, vocabulary, max_tokens=limit, is_timed=False)

    def close(self) -> None:
        del self._model, self._adapted, self._decoder
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def n_workers(self) -> int:
        """One: torch splits every matrix product among its threads."""
        return 1

    @property
    def usual_batch(self) -> BatchSize:
        return GPU_BATCH if self._model.device.type == "cuda" else CPU_BATCH

    def _encode(self, windows: Sequence[EngineInput]) -> Tensor:
        """Return encoder output, (n_windows, n_frames / 2, d_model), and cache it on the windows."""
        fresh = [window for window in windows if window.encoded is None]
        if fresh:
            batch = np.stack([window.log_mel for window in fresh])
            features = torch.from_numpy(batch).to(self._model.device, self._model.dtype)
            for window, encoded in zip(
                fresh, self._model.model.encoder(features).last_hidden_state, strict=True
            ):
                window.encoded = encoded
        return torch.stack([window.encoded for window in windows])

    @contextlib.contextmanager
    def _adapter(self, key: str | None) -> Iterator[None]:
        """Activate an adapter, or with None the base model alone, for the duration of the context."""
        if self._adapted is None:
            yield
            return
        if key is None:
            self._unmerge()
            with self._adapted.disable_adapter():
                yield
            return
        name = self._names[key]
        if self._merged != name:
            self._unmerge()
            if self._adapted.active_adapter != name:
                self._adapted.set_adapter(name, inference_mode=True)
            if self._merges:
                with torch.no_grad():
                    self._adapted.merge_adapter([name])  # forwarded by peft to its tuner
                self._merged = name
        yield

    def _unmerge(self) -> None:
        """Take the merged adapter, if any, out of the weights."""
        if self._merged is not None:
            # In fp32 merging and unmerging moves a weight by one rounding (1e-7 of it), which is harmless.
            assert self._adapted is not None
            with torch.no_grad():
                self._adapted.unmerge_adapter()
            self._merged = None

    def _search_rules(self, tuned: bool) -> SearchRules:
        vocabulary = self._vocabulary
        n_vocabulary = int(self._model.config.vocab_size)
        mask, first_mask = torch.zeros(n_vocabulary), torch.zeros(n_vocabulary)
        mask[torch.from_numpy(vocabulary.suppressed[vocabulary.suppressed < n_vocabulary])] = -torch.inf
        first_mask[torch.from_numpy(vocabulary.suppressed_first)] = -torch.inf
        if tuned:
            # Adapters are trained to answer noise with an empty text; the base would stop at random.
            first_mask[vocabulary.end] = 0.0
        return SearchRules(
            end=vocabulary.end,
            no_speech=vocabulary.no_speech,
            mask=mask.to(self._model.device),
            first_mask=first_mask.to(self._model.device),
        )


def _row(window: EngineInput, n_prompt: int) -> Row:
    options = window.options
    return Row(
        max_new_tokens=max(1, min(options.max_new_tokens, MAX_CONTEXT_TOKENS - n_prompt)),
        temperature=options.temperature,
        seed=options.seed,
        may_loop=lambda: sound_repeats(window.log_mel),
    )


def _bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    options: dict[Quantization, dict[str, Any]] = {
        "int8": {"load_in_8bit": True},
        "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    if quantization == "none":
        return None
    return BitsAndBytesConfig(**options[quantization])  # type: ignore[no-untyped-call]
