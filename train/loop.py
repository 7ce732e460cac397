"""The training loop: batches -> loss -> optimiser steps, with checkpoints, metrics and a progress bar.

Resuming is exact: a checkpoint holds the position in the batch plan, and every random choice about a batch
follows from the seed, the epoch and the batch's number.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel

from train.batches import ExamplePlan, plan_epoch
from train.checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint
from train.collate import Batch, Collator
from train.config import TrainConfig
from train.metrics import Window, open_metrics
from train.model import batch_loss
from train.optimiser import AdapterOptimiser, NumberedBatch, learning_rate_factor
from train.progress import progress_bar
from train.stopping import stop_on_signals

_PREFETCHED_BATCHES = 2
_VALID_BATCH = 16  # clips


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training loop ended."""

    step: int
    total_steps: int
    trained_s: float
    samples: int
    skipped_batches: int
    finished: bool
    """False where a signal stopped the run; a later start goes on."""


def train_adapter(
    model: PeftModel,
    config: TrainConfig,
    train_data: Collator,
    valid_data: Collator | None,
    device: torch.device,
) -> Outcome:
    """Train the adapter of `model` in place and return how it ended.

    Raises:
        DataError: a clip cannot be read, or the checkpoint to go on from belongs to another adapter.
        TrainError: the loss was not finite for twenty batches in a row.
    """
    optimiser = AdapterOptimiser(model, config, device)
    durations_s = [clip.duration_s for clip in train_data.clips]
    total_steps = _total_steps(durations_s, config)
    position = _resume(config, model, optimiser.adamw)
    checkpoints = config.output_dir / "checkpoints"
    save = _Saver(
        lambda: save_checkpoint(checkpoints, model, optimiser.adamw, position, config.keep_checkpoints)
    )
    planned = _planned_batches(durations_s, config, position.epoch, position.batch)

    with (
        stop_on_signals() as stop,
        open_metrics(config, position.step) as metrics,
        closing(_prefetched(train_data, planned)) as batches,
        progress_bar("training", total_steps, "steps") as advance,
    ):
        advance(position.step)
        model.train()
        window = Window()
        while position.step < total_steps and not stop.requested:
            started = time.monotonic()
            rate = config.learning_rate * learning_rate_factor(
                position.step, total_steps, config.warmup_fraction
            )
            optimiser.step(batches, position, window, rate)
            step_s = time.monotonic() - started
            position.trained_s += step_s
            window.trained_s += step_s
            advance(1, note=f"loss {window.loss:.3f}")

            last = position.step == total_steps
            if last or position.step % config.log_every_steps == 0:
                metrics.log(position, window, rate)
                window = Window()
            if valid_data and _is_due(position.step, config.eval_every_steps, last):
                metrics.log_valid(position, _valid_loss(model, valid_data, device))
            if last or position.step % config.save_every_steps == 0 or save.age_s > config.save_every_s:
                save()
        if stop.requested and position.step < total_steps:
            save()
    return Outcome(
        step=position.step,
        total_steps=total_steps,
        trained_s=position.trained_s,
        samples=position.samples,
        skipped_batches=position.skipped_batches,
        finished=position.step >= total_steps,
    )


def _is_due(step: int, every_steps: int, last: bool) -> bool:
    return every_steps > 0 and (last or step % every_steps == 0)


def _total_steps(durations_s: Sequence[float], config: TrainConfig) -> int:
    if config.max_steps:
        return config.max_steps
    per_epoch = len(plan_epoch(durations_s, config, 0)) / config.accumulate_batches
    return max(1, round(config.epochs * per_epoch))


def _resume(config: TrainConfig, model: PeftModel, adamw: torch.optim.Optimizer) -> Position:
    """Restore the newest whole checkpoint; with `resume: never`, remove all that an earlier run left."""
    checkpoints = config.output_dir / "checkpoints"
    if config.resume == "never":
        shutil.rmtree(checkpoints, ignore_errors=True)  # or a later start would go on from the older run
    newest = newest_checkpoint(checkpoints)
    return load_checkpoint(newest, model, adamw) if newest else Position()


PlannedBatch = tuple[int, int, list[ExamplePlan]]


def _planned_batches(
    durations_s: Sequence[float], config: TrainConfig, epoch: int, first: int
) -> Iterator[PlannedBatch]:
    """Yield (epoch, number, examples) without end, from a position on."""
    while True:
        plan = plan_epoch(durations_s, config, epoch)
        for number in range(first, len(plan)):
            yield epoch, number, plan[number]
        epoch, first = epoch + 1, 0


def _prefetched(data: Collator, planned: Iterator[PlannedBatch]) -> Generator[NumberedBatch, None, None]:
    """Collate ahead of the model, in one thread, in order."""
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        waiting: list[tuple[int, int, Future[Batch]]] = []
        for epoch, number, examples in planned:
            waiting.append((epoch, number, pool.submit(data.collate, examples, (epoch, number))))
            if len(waiting) > _PREFETCHED_BATCHES:
                ready_epoch, ready_number, future = waiting.pop(0)
                yield ready_epoch, ready_number, future.result()


def _valid_loss(model: PeftModel, data: Collator, device: torch.device) -> float:
    """Return the mean loss per token over the validation clips, without augmentation."""
    examples = [ExamplePlan(clips=(i,), duration_s=clip.duration_s) for i, clip in enumerate(data.clips)]
    examples.sort(key=lambda example: example.duration_s)
    model.eval()
    loss_sum, n_tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(examples), _VALID_BATCH):
            batch = data.collate(examples[start : start + _VALID_BATCH], (0, start))
            loss, n_labels = batch_loss(model, batch, device)
            loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
    model.train()
    return loss_sum / max(1, n_tokens)


class _Saver:
    """Saves, and knows how long ago it last did."""

    def __init__(self, save: Callable[[], Path]) -> None:
        self._save = save
        self._saved_at = time.monotonic()

    def __call__(self) -> None:
        self._save()
        self._saved_at = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._saved_at
