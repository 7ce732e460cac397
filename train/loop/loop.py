"""The training loop: batches -> loss -> optimiser steps, with checkpoints, metrics and a progress bar.

By hand, so that resuming is exact: a checkpoint holds the position in the batch plan, and every random choice
about a batch follows from the seed, the epoch and the batch's number. Several processes share one plan: two
processes with one batch each make the step of one process with two.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel

from serve.config.progress import progress_bar
from train.config import TrainConfig
from train.examples.batches import ExamplePlan, plan_epoch, shard_numbers
from train.examples.collate import Batch, Collator
from train.loop.checkpoint import (
    Position,
    newest_checkpoint,
    read_checkpoint,
    restore_best,
    restore_checkpoint,
    save_best,
    save_checkpoint,
)
from train.loop.distributed import ALONE, Processes
from train.loop.metrics import METRICS_FILE, Window, open_metrics
from train.loop.optimiser import AdapterOptimiser, NumberedBatch, learning_rate_factor
from train.loop.stopping import stop_on_signals
from train.loop.validation import Validation, is_better

_PREFETCHED_BATCHES = 2


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
    best_step: int | None = None
    """Step whose adapter the model holds, where that is not the last."""


def train_adapter(
    model: PeftModel,
    config: TrainConfig,
    train_data: Collator,
    valid_data: Collator | None,
    device: torch.device,
    processes: Processes = ALONE,
) -> Outcome:
    """Train the adapter of `model` in place and return how it ended.

    Raises:
        DataError: a clip cannot be read, or the checkpoint to go on from belongs to another adapter.
        TrainError: the loss was not finite for twenty batches in a row, or a clip does not fit into memory.
    """
    plan = partial(
        plan_epoch,
        [clip.duration_s for clip in train_data.clips],
        config,
        shards=shard_numbers(train_data.clips),
    )
    total_steps = _total_steps(plan, config, processes.count)
    optimiser = AdapterOptimiser(model, config, device, processes, total_steps)
    position = _resume(config, model, optimiser.adamw, processes)
    checkpoints = config.checkpoints
    log = config.output_dir / METRICS_FILE
    save = _Saver(
        lambda: save_checkpoint(
            checkpoints, model, optimiser.adamw, position, config.keep_checkpoints, log=log
        )
    )
    validation = Validation(valid_data, config, device, processes) if valid_data else None
    planned = _planned_batches(plan, position.epoch, position.batch)

    with (
        stop_on_signals() as stop,
        ExitStack() as open_files,
        closing(_prefetched(train_data, planned, processes)) as batches,
        progress_bar("training", total_steps, "steps", shown=processes.leads) as advance,
    ):
        metrics = open_files.enter_context(open_metrics(config, position.step)) if processes.leads else None
        advance(position.step)
        model.train()
        window = Window()
        stopped = False
        while not (stopped or _is_over(position, total_steps, config)):
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
                if metrics:
                    metrics.log(position, window, rate)
                window = Window()
            if validation and _is_due(position.step, config.eval_every_steps, last):
                look = validation.look(model)
                better = is_better(look, position, config)
                if metrics:
                    metrics.log_valid(position, look.loss, look.wer)
                if better and config.export_best and processes.leads:
                    save_best(checkpoints, model)
            stopped = processes.any(stop.requested)  # a signal to one process stops them all, together
            over = _is_over(position, total_steps, config)
            due = position.step % config.save_every_steps == 0 or save.age_s > config.save_every_s
            if processes.leads and (due or over or stopped):
                save()
    finished = _is_over(position, total_steps, config)
    if finished and config.export_best and processes.leads:
        restore_best(checkpoints, model)
    return Outcome(
        step=position.step,
        total_steps=total_steps,
        trained_s=position.trained_s,
        samples=position.samples,
        skipped_batches=position.skipped_batches,
        finished=finished,
        best_step=position.best_step if finished and config.export_best else None,
    )


def _is_over(position: Position, total_steps: int, config: TrainConfig) -> bool:
    """Tell whether all steps are done, or too many looks in a row were no better than the best."""
    in_vain = 0 < config.early_stopping_evals <= position.looks_since_best
    return in_vain or position.step >= total_steps


def _is_due(step: int, every_steps: int, last: bool) -> bool:
    return every_steps > 0 and (last or step % every_steps == 0)


def _total_steps(plan: EpochPlanner, config: TrainConfig, n_processes: int) -> int:
    if config.max_steps:
        return config.max_steps
    per_epoch = len(plan(epoch=0)) / (config.accumulate_batches * n_processes)
    return max(1, round(config.epochs * per_epoch))


def _resume(
    config: TrainConfig, model: PeftModel, adamw: torch.optim.Optimizer, processes: Processes
) -> Position:
    """Restore the newest whole checkpoint; with `resume: never`, remove all that an earlier run left.

    The leader's disk decides: those of other machines may hold an older state. Where the run directory is
    new, as on the next machine of a spot job, the metrics so far come from the checkpoint too.
    """
    checkpoints = config.checkpoints
    if config.resume == "never" and processes.leads:
        shutil.rmtree(checkpoints, ignore_errors=True)  # or a later start would go on from the older run
    newest = newest_checkpoint(checkpoints) if processes.leads else None
    log = config.output_dir / METRICS_FILE
    if newest and not log.exists() and (newest / METRICS_FILE).is_file():
        shutil.copyfile(newest / METRICS_FILE, log)
    saved = processes.from_leader(read_checkpoint(newest) if newest else None)
    return restore_checkpoint(saved, model, adamw) if saved else Position()


PlannedBatch = tuple[int, int, list[ExamplePlan]]
EpochPlanner = Callable[..., list[list[ExamplePlan]]]


def _planned_batches(plan: EpochPlanner, epoch: int, first: int) -> Iterator[PlannedBatch]:
    """Yield (epoch, number, examples) without end, from a position on."""
    while True:
        batches = plan(epoch=epoch)
        for number in range(first, len(batches)):
            yield epoch, number, batches[number]
        epoch, first = epoch + 1, 0


def _prefetched(
    data: Collator, planned: Iterator[PlannedBatch], processes: Processes
) -> Generator[NumberedBatch, None, None]:
    """Deal the batches out to the processes in turn; collate this one's ahead of the model, in one thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        waiting: list[tuple[PlannedBatch, PlannedBatch, Future[Batch]]] = []
        while dealt := list(itertools.islice(planned, processes.count)):
            epoch, number, examples = dealt[processes.rank]
            batch = pool.submit(data.collate, examples, (epoch, number))
            waiting.append((dealt[processes.rank], dealt[-1], batch))
            if len(waiting) > _PREFETCHED_BATCHES:
                (epoch, number, _), (last_epoch, last_number, _), ready = waiting.pop(0)
                yield NumberedBatch(
                    epoch=epoch,
                    number=number,
                    batch=ready.result(),
                    next_epoch=last_epoch,
                    next_number=last_number + 1,
                )


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
