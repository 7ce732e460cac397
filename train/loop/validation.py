"""Score the validation clips during a run: loss per token, and WER through the serving engine's decoding.

The model in training is what the engine runs, quantised base and all; only speech detection is left out,
since a clip is one window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel

from serve.engine import DecodingOptions
from serve.engine.transformers.engine import TransformersEngine
from serve.engine.vocabulary import Vocabulary
from train.config import TrainConfig
from train.evaluate.scoring import score
from train.examples.batches import ExamplePlan
from train.examples.collate import Batch, Collator
from train.loop.checkpoint import Position
from train.loop.distributed import ALONE, Processes
from train.model.build import batch_loss, multiplies_in_bfloat16

_CLIPS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Look:
    """Scores of one look at the validation clips."""

    loss: float
    """Mean over the tokens of all clips, in nats."""
    wer: float | None
    """WER of greedy transcripts of `valid_clips` clips, as a fraction; None where `valid_clips` is 0."""


class Validation:
    """Scores a model on the validation clips. Each process takes a share; all return the same scores."""

    def __init__(
        self, data: Collator, config: TrainConfig, device: torch.device, processes: Processes = ALONE
    ) -> None:
        """Score the clips of `data`, a collator that does not augment."""
        self._data = data
        self._config = config
        self._device = device
        self._mixed = multiplies_in_bfloat16(config, device)
        self._processes = processes

    def look(self, model: PeftModel) -> Look:
        """Return loss and WER of a model in training mode, which it is in afterwards too."""
        model.eval()
        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.training = True  # out of training it repacks its weight for some CPUs, for good
        with torch.inference_mode():
            look = Look(loss=self._loss(model), wer=self._wer(model) if self._config.valid_clips else None)
        model.train()
        return look

    def _loss(self, model: PeftModel) -> float:
        loss_sum, n_tokens = 0.0, 0
        for _, batch in self._batches(list(range(len(self._data.clips)))):
            loss, n_labels = batch_loss(model, batch, self._device, mixed=self._mixed)
            loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
        loss_sum, all_tokens = self._processes.sum([loss_sum, n_tokens])
        return loss_sum / max(1.0, all_tokens)

    def _wer(self, model: PeftModel) -> float:
        """Return the corpus WER of clips spread evenly over the validation set."""
        clips = self._data.clips
        n_chosen = min(self._config.valid_clips, len(clips))
        chosen = [number * len(clips) // n_chosen for number in range(n_chosen)]
        vocabulary = Vocabulary.read(Path(str(model.get_base_model().name_or_path)))
        engine = TransformersEngine(model, vocabulary, merge=False, fallback=False)
        options = DecodingOptions(language=self._config.language, task=self._config.task)
        heard: dict[int, str] = {}
        for indices, batch in self._batches(chosen):
            hypotheses = engine.transcribe_batch(list(batch.log_mel.numpy()), [options] * len(indices))
            heard.update(zip(indices, (hypothesis.text for hypothesis in hypotheses), strict=True))
        heard = self._processes.gather(heard)
        references = [clips[index].text for index in chosen]
        return score(references, [heard[index] for index in chosen], self._config.profile).wer

    def _batches(self, indices: list[int]) -> Iterator[tuple[list[int], Batch]]:
        """Yield this process's share of the clips, in batches of similar length."""
        durations_s = [clip.duration_s for clip in self._data.clips]
        indices = sorted(indices, key=lambda index: durations_s[index])
        firsts = range(0, len(indices), _CLIPS_AT_ONCE)
        for first in firsts[self._processes.rank :: self._processes.count]:
            together = indices[first : first + _CLIPS_AT_ONCE]
            examples = [ExamplePlan(clips=(index,), duration_s=durations_s[index]) for index in together]
            yield together, self._data.collate(examples, (0, first))


def is_better(look: Look, position: Position, config: TrainConfig) -> bool:
    """Record a look in `position`; tell whether it is the best so far."""
    value = look.wer if config.best_by == "wer" else look.loss
    assert value is not None
    if not math.isfinite(value) or (position.best is not None and value >= position.best):
        position.looks_since_best += 1
        return False
    position.best, position.best_step, position.looks_since_best = value, position.step, 0
    return True
