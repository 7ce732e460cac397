"""The training loop: batches -> loss -> optimiser steps, with checkpoints, metrics and a progress bar.

Written by hand, so that resuming is exact: a checkpoint holds the position in the batch plan, and every
random choice about a batch follows from the seed, the epoch and the batch's number. Several processes share
one plan: two processes with one batch each take the same step as one process with two, and so does the one
that is left of two.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import PeftModel

from serve.config.progress import progress_bar
from train.config import TrainConfig
from train.errors import TrainError, UnreadBatch
from train.examples.batches import ExamplePlan, plan_epoch, shard_numbers
from train.examples.collate import Batch, Collator
from train.loop.anchor import EncoderAnchor
from train.loop.checkpoint import (
    Checkpoint,
    Position,
    clear_checkpoints,
    has_best,
    read_checkpoint,
    restore_best,
    restore_checkpoint,
    save_best,
    save_checkpoint,
)
from train.loop.distributed import ALONE, Processes
from train.loop.metrics import METRICS_FILE, MetricsLog, Window, open_metrics
from train.loop.optimiser import AdapterOptimiser, NumberedBatch, learning_rate_factor
from train.loop.origin import checkpoint_to_resume
from train.loop.stopping import StopRequest, stop_on_signals
from train.loop.validation import Validation, forget_other_best, is_better

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
    """False if a signal stopped the run; a later start resumes it."""
    best_step: int | None = None
    """Step of the adapter that the model holds, if that is not the last one."""


def train_adapter(
    model: PeftModel,
    config: TrainConfig,
    train_data: Collator,
    valid_data: Collator | None,
    device: torch.device,
    processes: Processes = ALONE,
    distill_data: Collator | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train the adapter of `model` in place and return how it ended.

    Args:
        distill_data: Recordings on which the encoder is kept close to the base's, if any.
        origin: What the steps are made of, for the checkpoints of a run that begins.

    Raises:
        DataError: A clip cannot be read where none may be bad, or no clip of many batches can; or the
            checkpoint to resume from belongs to another adapter.
        TrainError: The loss was not finite for twenty batches in a row, a clip does not fit into memory, or
            there is no best adapter to export.
    """
    plan = partial(
        plan_epoch,
        [clip.duration_s for clip in train_data.clips],
        config,
        shards=shard_numbers(train_data.clips),
        weights=[clip.weight for clip in train_data.clips],
        languages=[clip.language for clip in train_data.clips],
        n_tokens=train_data.n_tokens,
    )
    saved = _saved(config, processes)
    # A process that has left has its batches taken by the others, so that the steps stay the same.
    n_processes = max(processes.count, saved.position.n_processes if saved else 1)
    total_steps = _total_steps(plan, config, n_processes)
    anchor = EncoderAnchor(model, config, distill_data, device, processes) if distill_data else None
    optimiser = AdapterOptimiser(model, config, device, processes, total_steps, anchor)
    position = restore_checkpoint(saved, model, optimiser.adamw) if saved else Position()
    position.n_processes, position.agents = n_processes, sorted(processes.agents)
    position.origin = position.origin or dict(origin or {})
    run = _Run(
        model=model,
        config=config,
        processes=processes,
        optimiser=optimiser,
        validation=Validation(valid_data, config, device, processes) if valid_data else None,
        position=position,
        total_steps=total_steps,
    )
    run.check_best()
    planned = _planned_batches(plan, run.position.epoch, run.position.batch)
    with (
        stop_on_signals() as stop,
        open_metrics(config, run.position.step) if processes.leads else nullcontext() as metrics,
        closing(_prefetched(train_data, planned, processes)) as batches,
        progress_bar("training", total_steps, "steps", shown=processes.leads) as advance,
    ):
        advance(run.position.step)
        run.train(batches, metrics, advance, stop)
    return run.finish()


@dataclass(kw_only=True)
class _Run:
    """The state of a training loop."""

    model: PeftModel
    config: TrainConfig
    processes: Processes
    optimiser: AdapterOptimiser
    validation: Validation | None
    position: Position
    total_steps: int
    saved_at: float = field(default_factory=time.monotonic)
    """Monotonic time of the last checkpoint, or of the start."""

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or training stops early for lack of progress."""
        in_vain = 0 < self.config.early_stopping_evals <= self.position.looks_since_best
        return in_vain or self.position.step >= self.total_steps

    def train(
        self,
        batches: Iterator[NumberedBatch],
        metrics: MetricsLog | None,
        advance: Callable[..., None],
        stop: StopRequest,
    ) -> None:
        """Take steps until all are done or a signal requests a stop; only the leader has `metrics`."""
        config, position = self.config, self.position
        self.model.train()
        window = Window()
        stopped = False
        while not (stopped or self.is_over):
            rate = self._step(batches, window)
            advance(1, note=f"loss {window.loss:.3f}")
            last = position.step == self.total_steps
            if _is_due(position.step, config.log_every_steps, last):
                if metrics:
                    metrics.log(position, window, rate)
                window = Window()
            if self.validation and _is_due(position.step, config.eval_every_steps, last):
                self._validate(self.validation, metrics)
            stopped = self.processes.any(stop.requested)  # a signal to one process stops them all
            if self.processes.leads:
                self._save(now=stopped or self.is_over)

    def check_best(self) -> None:
        """Forget an earlier best that was measured otherwise, or whose adapter is not there to export."""
        if self.validation:
            kept = not self.config.export_best or has_best(self.config.checkpoints)
            kept = self.processes.from_leader(kept)
            forget_other_best(self.position, self.validation.measure, kept=kept)

    def finish(self) -> Outcome:
        """Load the best adapter into the model if configured, and return how training ended.

        Raises:
            TrainError: No validation has found a best adapter.
        """
        with_best = self.is_over and self.config.export_best
        if with_best and self.position.best is None:
            raise TrainError(
                f"export_best: no validation of this run has measured the {self.position.measure}: go on with"
                " more max_steps or epochs, or set export_best to false"
            )
        if with_best and self.processes.leads:
            restore_best(self.config.checkpoints, self.model)
        return Outcome(
            step=self.position.step,
            total_steps=self.total_steps,
            trained_s=self.position.trained_s,
            samples=self.position.samples,
            skipped_batches=self.position.skipped_batches,
            finished=self.is_over,
            best_step=self.position.best_step if with_best else None,
        )

    def _step(self, batches: Iterator[NumberedBatch], window: Window) -> float:
        """Take one optimiser step and return its learning rate."""
        started = time.monotonic()
        factor = learning_rate_factor(self.position.step, self.total_steps, self.config.warmup_fraction)
        rate = self.config.learning_rate * factor
        self.optimiser.step(batches, self.position, window, rate)
        step_s = time.monotonic() - started
        self.position.trained_s += step_s
        window.trained_s += step_s
        return rate

    def _validate(self, validation: Validation, metrics: MetricsLog | None) -> None:
        """Validate, and keep the adapter if it is the best so far."""
        look = validation.look(self.model)
        better = is_better(look, self.position, self.config)
        if metrics:
            metrics.log_valid(self.position, look)
        if better and self.processes.leads:  # also for a later start that exports the best
            save_best(self.config.checkpoints, self.model)

    def _save(self, *, now: bool) -> None:
        """Write a checkpoint if one is due by steps or by time, or `now`."""
        config = self.config
        is_old = time.monotonic() - self.saved_at > config.save_every_s
        if now or is_old or self.position.step % config.save_every_steps == 0:
            save_checkpoint(
                config.checkpoints,
                self.model,
                self.optimiser.adamw,
                self.position,
                config.keep_checkpoints,
                log=config.output_dir / METRICS_FILE,
            )
            self.saved_at = time.monotonic()


def _is_due(step: int, every_steps: int, last: bool) -> bool:
    return every_steps > 0 and (last or step % every_steps == 0)


def _total_steps(plan: EpochPlanner, config: TrainConfig, n_processes: int) -> int:
    if config.max_steps:
        return config.max_steps
    per_epoch = len(plan(epoch=0)) / (config.accumulate_batches * n_processes)
    return max(1, round(config.epochs * per_epoch))


def _saved(config: TrainConfig, processes: Processes) -> Checkpoint | None:
    """Return the checkpoint to resume from; with `resume: never`, delete those that an earlier run left.

    The leader's disk decides, because other machines' disks may hold an older state. In a new run directory,
    as on the next machine of a spot job, the checkpoint also restores the metrics so far.
    """
    newest = checkpoint_to_resume(config, processes) if processes.leads else None
    if config.resume == "never" and processes.leads and newest is None:
        clear_checkpoints(config.checkpoints)  # else a later start would resume the older run
    log = config.output_dir / METRICS_FILE
    if newest and not log.exists() and (newest / METRICS_FILE).is_file():
        shutil.copyfile(newest / METRICS_FILE, log)
    return processes.from_leader(read_checkpoint(newest) if newest else None)


PlannedBatch = tuple[int, int, list[ExamplePlan]]
EpochPlanner = Callable[..., list[list[ExamplePlan]]]


def _planned_batches(plan: EpochPlanner, epoch: int, first: int) -> Iterator[PlannedBatch]:
    """Yield (epoch, number, examples) endlessly, starting from a position."""
    while True:
        batches = plan(epoch=epoch)
        for number in range(first, len(batches)):
            yield epoch, number, batches[number]
        epoch, first = epoch + 1, 0


def _prefetched(
    data: Collator, planned: Iterator[PlannedBatch], processes: Processes
) -> Generator[NumberedBatch, None, None]:
    """Deal batches to the processes in turn; collate this process's batches ahead, in one thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        waiting: list[tuple[PlannedBatch, PlannedBatch, Future[Batch | UnreadBatch]]] = []
        while dealt := list(itertools.islice(planned, processes.count)):
            epoch, number, examples = dealt[processes.rank]
            batch = pool.submit(_collate, data, examples, (epoch, number))
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


def _collate(data: Collator, examples: list[ExamplePlan], key: tuple[int, int]) -> Batch | UnreadBatch:
    """Return a batch, or why none of it can be read: the step needs its place, also in other processes."""
    try:
        return data.collate(examples, key)
    except UnreadBatch as error:
        return error
