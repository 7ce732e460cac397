"""Write `metrics.jsonl`: one JSON object a logged step, one for every look at the validation loss."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.checkpoint import Position
from train.collate import Batch


@dataclass(kw_only=True)
class Window:
    """Figures since the last logged step."""

    trained_s: float = 0.0
    """Wall-clock seconds of training; looks at the validation loss are left out."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each step, in nats a token; steps without a usable batch have none."""
    samples: int = 0
    audio_s: float = 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch that was trained on."""
        self.samples += len(batch.log_mel)
        self.audio_s += batch.audio_s

    @property
    def loss(self) -> float:
        """Mean over the steps; not a number where there was none."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan


class MetricsLog:
    """Appends to `metrics.jsonl`. A resumed run first drops what lies behind the step it goes on from."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step] if step else []
        path.write_text("".join(f"{line}\n" for line in kept))

    def log(self, position: Position, window: Window, learning_rate: float) -> None:
        """Write the figures of the steps since the last call."""
        self._append(
            step=position.step,
            epoch=position.epoch,
            loss=None if math.isnan(window.loss) else round(window.loss, 5),
            learning_rate=learning_rate,
            samples_per_s=round(window.samples / window.trained_s, 3),
            audio_s_per_s=round(window.audio_s / window.trained_s, 3),
            samples=position.samples,
            trained_s=round(position.trained_s, 1),
            skipped_batches=position.skipped_batches,
        )

    def log_valid(self, position: Position, valid_loss: float, valid_wer: float | None = None) -> None:
        """Write the loss on the validation clips, and their WER (a fraction) where it was measured."""
        wer = {} if valid_wer is None else {"valid_wer": round(valid_wer, 5)}
        self._append(step=position.step, valid_loss=round(valid_loss, 5), **wer)

    def _append(self, **values: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")


def _whole_lines(path: Path) -> list[str]:
    """Return the lines that were written to their end; a killed run may leave half a line."""
    text = path.read_text() if path.is_file() else ""
    return [line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("}\n")]
