"""Score the validation clips during a run: loss per token, and WER through the serving engine's decoding.

Both are measured for each source of clips, and their means over the sources count: if ten minutes of people
stand beside ten hours of synthetic voices, the best adapter must do well on both. The engine runs the model
in training itself, quantised base included. Only speech detection is left out, since a clip is one window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel

from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput
from serve.engine.transformers.engine import TransformersEngine
from serve.engine.vocabulary import Vocabulary
from train.config import TrainConfig
from train.data.records import VOICE_KINDS
from train.errors import DataError, UnreadBatch
from train.evaluate.scoring import Score, score
from train.examples.batches import ExamplePlan
from train.examples.collate import Batch, Collator
from train.loop.checkpoint import Position
from train.loop.distributed import ALONE, Processes
from train.model.build import batch_loss, multiplies_in_bfloat16

_CLIPS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Look:
    """Scores of one validation."""

    losses: Mapping[str, float]
    """Mean loss of each source per token, in nats."""
    wers: Mapping[str, float]
    """WER of each source, as a fraction, in greedy transcripts of `valid_clips` of its clips; empty if that
    is 0."""
    kinds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """WER and CER of each kind of voice over all sources, as fractions, people first."""

    @property
    def loss(self) -> float:
        """Mean over the sources, however many clips each has."""
        return fmean(self.losses.values())

    @property
    def wer(self) -> float | None:
        """Mean over the sources."""
        return fmean(self.wers.values()) if self.wers else None


class Validation:
    """Scores a model on the validation clips. Each process takes a share; all return the same scores."""

    def __init__(
        self, data: Collator, config: TrainConfig, device: torch.device, processes: Processes = ALONE
    ) -> None:
        """`data` must be a collator that does not augment."""
        self._data = data
        self._config = config
        self._device = device
        self._mixed = multiplies_in_bfloat16(config, device)
        self._processes = processes
        self._sources: dict[str, list[int]] = {}
        for index, clip in enumerate(data.clips):
            self._sources.setdefault(clip.source, []).append(index)

    @property
    def measure(self) -> str:
        """What validations are compared by: loss or WER, and of which clips."""
        config = self._config
        counts = {source: len(indices) for source, indices in self._sources.items()}
        if config.best_by == "wer":
            counts = {source: min(count, config.valid_clips) for source, count in counts.items()}
        listed = ", ".join(f"{source} ({count} clips)" for source, count in counts.items())
        return f"{config.best_by}{f' ({config.profile})' if config.best_by == 'wer' else ''} of {listed}"

    def look(self, model: PeftModel) -> Look:
        """Return loss and WER of a model in training mode, and leave it in that mode.

        Raises:
            DataError: No clip of a source can be read.
        """
        model.eval()
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.training = True  # in eval mode it repacks its weight for some CPUs, irreversibly
        with torch.inference_mode():
            losses = self._losses(model)
            wers, kinds = self._errors(model) if self._config.valid_clips else ({}, {})
            look = Look(losses=losses, wers=wers, kinds=kinds)
        model.train()
        return look

    def _losses(self, model: PeftModel) -> dict[str, float]:
        sums: list[float] = []
        for indices in self._sources.values():
            loss_sum, n_tokens = 0.0, 0
            for _, batch in self._batches(indices):
                loss, n_labels = batch_loss(model, batch, self._device, mixed=self._mixed)
                loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
            sums += [loss_sum, n_tokens]
        summed = self._processes.sum(sums)
        for source, all_tokens in zip(self._sources, summed[1::2], strict=True):
            _require(all_tokens > 0, source)
        return {
            source: loss / all_tokens
            for source, loss, all_tokens in zip(self._sources, summed[::2], summed[1::2], strict=True)
        }

    def _errors(self, model: PeftModel) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Return the corpus WER of each source, and (WER, CER) of each kind of voice.

        The transcribed clips are spread evenly over each source.
        """
        clips = self._data.clips
        vocabulary = Vocabulary.read(Path(str(model.get_base_model().name_or_path)))
        engine = TransformersEngine(model, vocabulary, merge=False)
        heard: dict[int, str] = {}
        chosen = {
            source: spread_evenly(indices, self._config.valid_clips)
            for source, indices in self._sources.items()
        }
        for indices, batch in self._batches([index for each in chosen.values() for index in each]):
            # All of one kind: same adapter, length, and prompt length.
            windows = [
                EngineInput(log_mel=log_mel, options=self._options(clips[index].language))
                for index, log_mel in zip(indices, batch.log_mel.numpy(), strict=True)
            ]
            hypotheses = engine.decode(windows)
            heard.update(zip(indices, (hypothesis.text for hypothesis in hypotheses), strict=True))
        heard = self._processes.gather(heard)
        chosen = {source: [i for i in indices if i in heard] for source, indices in chosen.items()}
        for source, indices in chosen.items():
            _require(bool(indices), source)

        def scored(indices: Sequence[int]) -> Score:
            return score(
                [clips[i].text for i in indices],
                [heard[i] for i in indices],
                self._config.profile,
                languages=[clips[i].language or self._config.language for i in indices],
            )

        kinds: dict[str, tuple[float, float]] = {}
        for kind in VOICE_KINDS:
            if alike := [i for indices in chosen.values() for i in indices if clips[i].kind == kind]:
                kinds[kind] = (scored(alike).wer, scored(alike).cer)
        return {source: scored(indices).wer for source, indices in chosen.items()}, kinds

    def _options(self, language: str | None) -> DecodingOptions:
        """Return the decoding options for a clip in this language; None takes the run's."""
        config = self._config
        return DecodingOptions(language=language or config.language, task=config.task, adapter=SERVED_ADAPTER)

    def _batches(self, indices: list[int]) -> Iterator[tuple[list[int], Batch]]:
        """Yield this process's share of the clips, in batches of similar length, without unreadable ones."""
        durations_s = [clip.duration_s for clip in self._data.clips]
        indices = sorted(indices, key=lambda index: durations_s[index])
        firsts = range(0, len(indices), _CLIPS_AT_ONCE)
        for first in firsts[self._processes.rank :: self._processes.count]:
            together = indices[first : first + _CLIPS_AT_ONCE]
            examples = [ExamplePlan(clips=(index,), duration_s=durations_s[index]) for index in together]
            with suppress(UnreadBatch):
                batch = self._data.collate(examples, (0, first))
                yield [index for example in batch.examples for index in example.clips], batch


def _require(readable: bool, source: str) -> None:
    """Raise a `DataError` unless there is a clip to measure by."""
    if not readable:
        raise DataError(f"valid_data: none of the clips of {source} that are validated can be read")


def spread_evenly(indices: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the indices, evenly spaced."""
    n_chosen = min(count, len(indices))
    return [indices[number * len(indices) // n_chosen] for number in range(n_chosen)]


def is_better(look: Look, position: Position, config: TrainConfig) -> bool:
    """Record a validation in `position`, and tell whether it is the best so far."""
    value = look.wer if config.best_by == "wer" else look.loss
    assert value is not None
    if not math.isfinite(value) or (position.best is not None and value >= position.best):
        position.looks_since_best += 1
        return False
    position.best, position.best_step, position.looks_since_best = value, position.step, 0
    return True


def forget_other_best(position: Position, measure: str, *, kept: bool) -> None:
    """Forget the best validation so far if it was measured otherwise, or its adapter was not `kept`."""
    if position.measure != measure or not kept:
        position.best, position.best_step, position.looks_since_best = None, 0, 0
    position.measure = measure
