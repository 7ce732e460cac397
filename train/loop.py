"""The training loop: batches -> loss -> optimiser steps, with checkpoints, metrics and a progress bar.

Resuming is exact: a checkpoint holds the position in the batch plan, and every random choice about a batch
follows from the seed, the epoch and the batch's number.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from train.batches import ExamplePlan, plan_epoch
from train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from train.collate import Batch, Collator
from train.config import TrainConfig
from train.errors import TrainError
from train.model import batch_loss, learning_rate_factor
from train.progress import progress_bar

_PREFETCHED_BATCHES = 2


@dataclass(kw_only=True)
class Position:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Number of the next batch within the epoch."""
    trained_s: float = 0.0
    """Wall-clock seconds spent in training, over all starts of the run."""
    samples: int = 0
    skipped_batches: int = 0


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
        TrainError: the loss was not finite for twenty batches in a row.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    durations_s = [clip.duration_s for clip in train_data.clips]
    total_steps = _total_steps(durations_s, config)
    position = _resume(config, model, optimiser)
    checkpoints, metrics = (
        config.output_dir / "checkpoints",
        _Metrics(config.output_dir / "metrics.jsonl", position),
    )
    save = _Saver(
        lambda: save_checkpoint(checkpoints, model, optimiser, asdict(position), config.keep_checkpoints)
    )
    stop = _StopFlag()
    batches = _prefetched(train_data, _planned_batches(durations_s, config, position.epoch, position.batch))

    with stop.listening(), progress_bar("training", total_steps, "steps") as advance:
        advance(position.step, note="")
        model.train()
        started, window = time.monotonic(), _Window()
        bad_in_a_row = 0
        while position.step < total_steps and not stop.requested:
            rate = config.learning_rate * learning_rate_factor(
                position.step, total_steps, config.warmup_fraction
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss_sum, n_tokens = 0.0, 0
            for _ in range(config.accumulate_batches):
                epoch, number, batch = next(batches)
                loss, n_labels = batch_loss(model, batch, device)
                position.epoch, position.batch = epoch, number + 1
                if not math.isfinite(loss.item()):
                    position.skipped_batches += 1
                    bad_in_a_row += 1
                    if bad_in_a_row >= 20:
                        raise TrainError(
                            "the loss is not a number for 20 batches in a row: lower learning_rate"
                        )
                    continue
                bad_in_a_row = 0
                (loss / 1000).backward()  # type: ignore[no-untyped-call] # sums are large: keep fp16 gradients in range
                loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
                window.add(batch)
                position.samples += len(batch.log_mel)
            _step(optimiser, parameters, n_tokens, config.max_grad_norm)
            position.step += 1
            window.losses.append(loss_sum / max(1, n_tokens))
            advance(1, note=f"loss {window.loss:.3f}")
            now = time.monotonic()
            position.trained_s += now - started
            started = now
            last = position.step == total_steps
            if position.step % config.log_every_steps == 0 or last:
                metrics.log(position, window, rate)
                window = _Window()
            if (
                valid_data
                and config.eval_every_steps
                and (position.step % config.eval_every_steps == 0 or last)
            ):
                metrics.log_valid(position, _valid_loss(model, valid_data, config, device))
                started = time.monotonic()
            if position.step % config.save_every_steps == 0 or save.age_s > config.save_every_s or last:
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


def _step(
    optimiser: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter], n_tokens: int, max_norm: float
) -> None:
    """Apply the gradients of summed losses as the gradient of the mean over tokens."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(1000 / max(1, n_tokens))
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    if n_tokens:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _total_steps(durations_s: Sequence[float], config: TrainConfig) -> int:
    if config.max_steps:
        return config.max_steps
    per_epoch = len(plan_epoch(durations_s, config, 0)) / config.accumulate_batches
    return max(1, round(config.epochs * per_epoch))


def _resume(config: TrainConfig, model: PeftModel, optimiser: torch.optim.Optimizer) -> Position:
    newest = newest_checkpoint(config.output_dir / "checkpoints") if config.resume == "auto" else None
    return Position(**load_checkpoint(newest, model, optimiser)) if newest else Position()


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


def _prefetched(data: Collator, planned: Iterator[PlannedBatch]) -> Iterator[tuple[int, int, Batch]]:
    """Collate ahead of the model, in one thread, in order."""
    with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
        waiting: list[tuple[int, int, Future[Batch]]] = []
        for epoch, number, examples in planned:
            waiting.append((epoch, number, pool.submit(data.collate, examples, (epoch, number))))
            if len(waiting) > _PREFETCHED_BATCHES:
                ready_epoch, ready_number, future = waiting.pop(0)
                yield ready_epoch, ready_number, future.result()


def _valid_loss(model: PeftModel, data: Collator, config: TrainConfig, device: torch.device) -> float:
    """Return the mean loss per token over the validation clips, without augmentation."""
    examples = [ExamplePlan(clips=(i,), duration_s=clip.duration_s) for i, clip in enumerate(data.clips)]
    examples.sort(key=lambda example: example.duration_s)
    model.eval()
    loss_sum, n_tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(examples), 16):
            loss, n_labels = batch_loss(model, data.collate(examples[start : start + 16], (0, start)), device)
            loss_sum, n_tokens = loss_sum + loss.item(), n_tokens + n_labels
    model.train()
    return loss_sum / max(1, n_tokens)


class _Window:
    """Figures since the last logged step."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.losses: list[float] = []
        self.samples = 0
        self.audio_s = 0.0

    def add(self, batch: Batch) -> None:
        self.samples += len(batch.log_mel)
        self.audio_s += batch.audio_s

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses) if self.losses else math.nan


class _Metrics:
    """Appends one JSON object a logged step; lines behind a resumed position are dropped first."""

    def __init__(self, path: Path, position: Position) -> None:
        self.path = path
        kept = []
        if path.is_file() and position.step:
            lines = path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= position.step]
        path.write_text("".join(f"{line}\n" for line in kept))

    def log(self, position: Position, window: _Window, learning_rate: float) -> None:
        elapsed_s = time.monotonic() - window.started
        self._append(
            step=position.step,
            epoch=position.epoch,
            loss=round(window.loss, 5),
            learning_rate=learning_rate,
            samples_per_s=round(window.samples / elapsed_s, 3),
            audio_s_per_s=round(window.audio_s / elapsed_s, 3),
            samples=position.samples,
            trained_s=round(position.trained_s, 1),
            skipped_batches=position.skipped_batches,
        )

    def log_valid(self, position: Position, valid_loss: float) -> None:
        self._append(step=position.step, valid_loss=round(valid_loss, 5))

    def _append(self, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")


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


class _StopFlag:
    """Set by SIGTERM or SIGINT; the loop finishes its step, saves and returns."""

    def __init__(self) -> None:
        self.requested = False

    def listening(self) -> _Listening:
        return _Listening(self)

    def __call__(self, signal_number: int, frame: object) -> None:
        self.requested = True


class _Listening:
    def __init__(self, flag: _StopFlag) -> None:
        self._flag = flag

    def __enter__(self) -> None:
        self._previous = {
            number: signal.signal(number, self._flag) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
