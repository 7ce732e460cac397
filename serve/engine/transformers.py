"""The reference engine: a transformers Whisper, quantised by bitsandbytes, its LoRA adapter attached by peft.

    engine = TransformersEngine.load(base_dir, adapter_dir, quantization="int8", n_threads=2, dynamic=True)
    hypotheses = engine.transcribe_batch([log_mel], [DecodingOptions(language="mr")])

The adapter stays beside a quantised base (merging into int8 weights changes the output). Beside an
unquantised base it is merged into fp32 weights, where that saves two small products a layer and step, and
taken out again for requests to the base alone.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration

from serve.engine import DecodingOptions, Hypothesis, LogMel, Quantization
from serve.engine.cached_decoder import CachedDecoder, DecoderState, detection_logits
from serve.engine.int8_layers import keep_scales
from serve.engine.quiet import quiet_libraries
from serve.engine.search import Row, SearchRules, search
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.errors import ArtifactError, BaseModelError


class TransformersEngine:
    """See `serve.engine.Engine`."""

    def __init__(
        self, model: WhisperForConditionalGeneration | PeftModel, vocabulary: Vocabulary, *, merge: bool
    ) -> None:
        """Take a loaded model; `merge` allows to merge its adapter into the weights."""
        self._adapted = model if isinstance(model, PeftModel) else None
        whisper = model.get_base_model() if isinstance(model, PeftModel) else model
        assert isinstance(whisper, WhisperForConditionalGeneration)
        self._model = whisper
        self._vocabulary = vocabulary
        self._decoder = CachedDecoder(whisper)
        self._merges = merge
        self._merged = False
        self._rules = {adapter: self._search_rules(adapter) for adapter in (True, False)}

    @classmethod
    def load(
        cls,
        base_dir: Path,
        adapter_dir: Path | None = None,
        *,
        quantization: Quantization = "int8",
        n_threads: int = 1,
        dynamic: bool = False,
    ) -> TransformersEngine:
        """Load a checkpoint directory, and an adapter on top of it.

        Args:
            base_dir: A transformers Whisper checkpoint.
            adapter_dir: A peft adapter in safetensors; None serves the base model alone.
            quantization: How linear layers of the base are kept: bitsandbytes int8 or nf4, or unquantised
                (fp32 on a CPU, fp16 on a GPU).
            n_threads: CPU threads of one matrix product; set for the whole process.
            dynamic: Whether windows may be shorter than 30 s.

        Raises:
            BaseModelError: The checkpoint cannot be loaded.
            ArtifactError: The adapter cannot be loaded, or does not fit the base.
        """
        torch.set_num_threads(n_threads)
        quiet_libraries()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        try:
            model = WhisperForConditionalGeneration.from_pretrained(
                base_dir,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation="sdpa",
                device_map={"": device},
                quantization_config=_bitsandbytes_config(quantization, dtype),
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise BaseModelError(f"{base_dir}: cannot be loaded as a Whisper checkpoint: {error}") from error
        keep_scales(model)
        vocabulary = Vocabulary.read(base_dir)
        if dynamic:
            # Imported here so that a fixed-window model does not depend on it.
            from serve.engine.encoder_context import enable_dynamic_context

            enable_dynamic_context(model)
        model.eval()  # type: ignore[no-untyped-call]
        if adapter_dir is None:
            return cls(model, vocabulary, merge=False)
        adapted = _attach_adapter(model, adapter_dir)
        return cls(adapted, vocabulary, merge=quantization == "none" and dtype == torch.float32)

    @property
    def languages(self) -> frozenset[str]:
        """Language codes the base model knows."""
        return frozenset(self._vocabulary.languages or {"en": 0})

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is loaded on top of the base model."""
        return self._adapted is not None

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Name the option that this engine cannot honour, and say why; None where it honours all."""
        reason = "not supported by the transformers engine"
        if options.beam_size > 1:
            return "beam_size", "only 1, greedy search, is supported by the transformers engine"
        asked = {
            "hotwords": options.hotwords,
            "suppress": options.suppress,
            "word_timestamps": options.word_timestamps,
            "timestamps": options.timestamps,
        }
        return next(((name, reason) for name, value in asked.items() if value), None)

    def transcribe_batch(
        self, log_mels: Sequence[LogMel], options: Sequence[DecodingOptions]
    ) -> list[Hypothesis]:
        """Decode windows together; see `serve.engine.Engine`."""
        assert len(log_mels) == len(options)
        by_adapter: dict[bool, list[int]] = defaultdict(list)
        for index, option in enumerate(options):
            by_adapter[option.adapter and self.has_adapter].append(index)
        hypotheses: dict[int, Hypothesis] = {}
        for adapter, indices in by_adapter.items():
            with self._adapter(adapter), torch.inference_mode():
                encoder_output = self._encode([log_mels[index] for index in indices])
                found = self._decode(
                    encoder_output, [options[index] for index in indices], self._rules[adapter]
                )
                hypotheses.update(zip(indices, found, strict=True))
        return [hypotheses[index] for index in range(len(options))]

    def close(self) -> None:
        """Free the model."""
        del self._model, self._adapted, self._decoder
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _encode(self, log_mels: Sequence[LogMel]) -> Tensor:
        """Return (n_rows, n_frames / 2, d_model) of the windows, padded to the longest."""
        n_frames = max(log_mel.shape[1] for log_mel in log_mels)
        batch = np.stack([pad_with_silence(log_mel, n_frames) for log_mel in log_mels])
        features = torch.from_numpy(batch).to(self._model.device, self._model.dtype)
        encoder_output: Tensor = self._model.model.encoder(features).last_hidden_state
        return encoder_output

    def _decode(
        self, encoder_output: Tensor, options: Sequence[DecodingOptions], rules: SearchRules
    ) -> list[Hypothesis]:
        """Decode rows, those with equally long prompts together."""
        vocabulary = self._vocabulary
        any_language = next(iter(vocabulary.languages), None)
        by_prefix: dict[int, list[int]] = defaultdict(list)
        for index, option in enumerate(options):
            n_prompt = len(vocabulary.prompt(any_language, option.task, option.prompt))
            by_prefix[n_prompt - len(vocabulary.prompt(any_language, option.task))].append(index)

        hypotheses: dict[int, Hypothesis] = {}
        for n_prefix, indices in by_prefix.items():
            group = [options[index] for index in indices]
            n_prompt = n_prefix + len(vocabulary.prompt(any_language, "transcribe"))
            limits = [max(1, min(option.max_new_tokens, MAX_CONTEXT_TOKENS - n_prompt)) for option in group]
            chosen = encoder_output if len(indices) == len(options) else encoder_output[indices]
            state = self._decoder.begin(chosen, n_prompt + max(limits))
            languages = self._languages_of(group, state)
            prompts = [
                vocabulary.prompt(language, option.task, option.prompt)
                for option, (language, _) in zip(group, languages, strict=True)
            ]
            rows = [
                Row(max_new_tokens=limit, temperature=option.temperature, seed=option.seed)
                for option, limit in zip(group, limits, strict=True)
            ]
            search(self._decoder, state, torch.tensor(prompts, device=chosen.device), n_prefix, rows, rules)
            for index, row, (language, probability) in zip(indices, rows, languages, strict=True):
                hypotheses[index] = Hypothesis(
                    tokens=tuple(row.tokens),
                    text=vocabulary.text(row.tokens),
                    language=language,
                    language_prob=probability,
                    avg_logprob=row.avg_logprob,
                    no_speech_prob=row.no_speech_prob,
                    truncated=row.truncated,
                    looped=row.looped,
                )
        return [hypotheses[index] for index in range(len(options))]

    def _languages_of(
        self, options: Sequence[DecodingOptions], state: DecoderState
    ) -> list[tuple[str, float | None]]:
        """Return each row's language, detected where the caller named none."""
        vocabulary = self._vocabulary
        if not vocabulary.languages:
            return [("en", None)] * len(options)
        if all(option.language for option in options):
            return [(option.language or "", None) for option in options]
        codes = list(vocabulary.languages)
        logits = detection_logits(self._decoder, state, vocabulary.start)
        probabilities = logits[:, list(vocabulary.languages.values())].float().softmax(dim=-1)
        best_probabilities, best = probabilities.max(dim=-1)
        return [
            (option.language, None) if option.language else (codes[index], probability)
            for option, index, probability in zip(
                options, best.tolist(), best_probabilities.tolist(), strict=True
            )
        ]

    @contextlib.contextmanager
    def _adapter(self, wanted: bool) -> Iterator[None]:
        """Run with the adapter, or with the base model alone."""
        if self._adapted is None:
            yield
        elif self._merges:
            if wanted != self._merged:
                # In fp32 a round trip moves a weight by one rounding (1e-7 of it), so switching stays
                # harmless.
                switch = self._adapted.merge_adapter if wanted else self._adapted.unmerge_adapter
                with torch.no_grad():
                    switch()  # forwarded by peft to its tuner
                self._merged = wanted
            with contextlib.nullcontext() if wanted else self._adapted.disable_adapter():
                yield
        else:
            with contextlib.nullcontext() if wanted else self._adapted.disable_adapter():
                yield

    def _search_rules(self, adapter: bool) -> SearchRules:
        vocabulary = self._vocabulary
        n_vocabulary = int(self._model.config.vocab_size)
        mask, first_mask = torch.zeros(n_vocabulary), torch.zeros(n_vocabulary)
        mask[torch.from_numpy(vocabulary.suppressed[vocabulary.suppressed < n_vocabulary])] = -torch.inf
        first_mask[torch.from_numpy(vocabulary.suppressed_first)] = -torch.inf
        if adapter:
            # An adapter is trained to answer noise with an empty text; the base is not, and would stop at
            # random.
            first_mask[vocabulary.end] = 0.0
        return SearchRules(
            end=vocabulary.end,
            no_speech=vocabulary.no_speech,
            mask=mask.to(self._model.device),
            first_mask=first_mask.to(self._model.device),
        )


def pad_with_silence(log_mel: LogMel, n_frames: int) -> LogMel:
    """Lengthen a window to `n_frames` by what zero samples would have given.

    Whisper clamps each window to 8 decades below its peak and scales by (x + 4) / 4, so silence lies exactly
    2 below the peak; a window of nothing but zeros lies at -1.5.
    """
    n_missing = n_frames - log_mel.shape[1]
    if n_missing == 0:
        return log_mel
    silence = max(float(log_mel.max()) - 2.0, -1.5)
    return np.pad(log_mel, ((0, 0), (0, n_missing)), constant_values=silence)


def _bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    options: dict[Quantization, dict[str, Any]] = {
        "int8": {"load_in_8bit": True},
        "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }
    if quantization == "none":
        return None
    return BitsAndBytesConfig(**options[quantization])  # type: ignore[no-untyped-call]


def _attach_adapter(model: WhisperForConditionalGeneration, adapter_dir: Path) -> PeftModel:
    weights = adapter_dir / "adapter_model.safetensors"
    if not weights.is_file():
        # peft would otherwise look for a pickle, or for a repository of that name on a hub.
        raise ArtifactError(weights, "is missing")
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, str(adapter_dir), is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ArtifactError(adapter_dir, f"cannot be attached to this base model: {error}") from error
    adapted.eval()
    return adapted
