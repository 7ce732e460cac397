"""Write the metrics of a run to `metrics.jsonl`, to standard output and to watchers.

    metric loss=0.1234 learning_rate=0.0006 samples_per_s=3.5 step=500;
    metric valid_loss=0.066 step=500;
    metric valid_loss=0.091 set=people step=500;
    metric valid_wer=61.3 valid_cer=17.9 set=kind-people step=500;
    metric eval_wer=21.3 eval_cer=3.3 set=test-everyday step=1517;

These lines are stable: `metric_definitions` returns SageMaker's regular expressions for them. Knows no model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from serve.model.durable_write import write_whole
from train.loop.watchers import Watcher, open_watchers

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.examples.collate import Batch
    from train.loop.checkpoint import Position
    from train.loop.validation import Look

STEP_METRICS = ("loss", "learning_rate", "samples_per_s", "distill_loss")
"""Logged every few steps: loss in nats per token, AdamW's rate, examples per second; with `distill_data`, the
encoder's distance from the base's."""
VALID_METRICS = ("valid_loss", "valid_wer", "valid_cer")
"""Logged after each validation. For all sources together and for each: loss in nats per token, and WER in per
cent if measured. For each kind of voice: WER and CER in per cent."""
KIND_SET = "kind-"
"""Prefix of a kind of voice in the name of a set, since a source may also be called `people`."""
EVAL_METRICS = ("eval_wer", "eval_cer")
"""Logged for the tuned model on each test set, in per cent, by the headline profile."""
METRICS = (*STEP_METRICS, *VALID_METRICS, *EVAL_METRICS)

METRICS_FILE = "metrics.jsonl"
"""File in a run directory; each line is a JSON object."""
MAX_DEFINITIONS = 40  # SageMaker's limit for one job
_NUMBER = r"([-+.0-9e]+)"


def metric_line(values: Mapping[str, float | None], step: int, test_set: str | None = None) -> str:
    """Return the line for standard output, without values that are not finite."""
    known = [(name, values.get(name)) for name in METRICS]
    fields = [f"{name}={v:.4g}" for name, v in known if v is not None and math.isfinite(v)]
    fields += [f"set={_word(test_set)}"] if test_set else []
    return f"metric {' '.join([*fields, f'step={step}'])};"


def metric_definitions(test_sets: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return SageMaker's metric definitions for these lines: a name and a regex with one group."""
    found = [{"Name": name, "Regex": rf"metric (?:\S+ )*?{name}={_NUMBER} "} for name in METRICS]
    for test_set in test_sets:
        found += [
            {
                "Name": f"{name}:{_word(test_set)}",
                "Regex": rf"metric (?:\S+ )*?{name}={_NUMBER} (?:\S+ )*?set={re.escape(_word(test_set))} ",
            }
            for name in EVAL_METRICS
        ]
    if len(found) > MAX_DEFINITIONS:
        raise ValueError(f"{len(found)} metric definitions; SageMaker takes {MAX_DEFINITIONS}")
    return found


@dataclass(kw_only=True)
class Window:
    """Metrics since the last logged step."""

    trained_s: float = 0.0
    """Wall-clock seconds of training, without validation."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of each step, in nats per token; steps without a usable batch have none."""
    distances: list[float] = field(default_factory=list)
    """Distance of the encoder from the base model's, for each step that measured it."""
    samples: int = 0
    audio_s: float = 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch that was trained on."""
        self.samples += len(batch.log_mel)
        self.audio_s += batch.audio_s

    @property
    def loss(self) -> float:
        """Mean over the steps; NaN if there are none."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan


class MetricsLog:
    """Appends to `metrics.jsonl`. A resumed run first drops the lines after the step it resumes from."""

    def __init__(self, path: Path, step: int, watchers: Sequence[Watcher] = ()) -> None:
        self._path = path
        self._watchers = watchers
        self._keep(lambda row: 0 < row["step"] <= step)

    def log(self, position: Position, window: Window, learning_rate: float) -> None:
        """Write the metrics of the steps since the last call."""
        distilled: dict[str, Any] = (
            {"distill_loss": round(fmean(window.distances), 6)} if window.distances else {}
        )
        self._append(
            step=position.step,
            epoch=position.epoch,
            loss=None if math.isnan(window.loss) else round(window.loss, 5),
            learning_rate=learning_rate,
            **distilled,
            samples_per_s=round(window.samples / window.trained_s, 3),
            audio_s_per_s=round(window.audio_s / window.trained_s, 3),
            samples=position.samples,
            trained_s=round(position.trained_s, 1),
            skipped_batches=position.skipped_batches,
        )

    def log_valid(self, position: Position, look: Look) -> None:
        """Write a validation's loss, and its WER in per cent if measured.

        These are means over the sources. If there are several, each source follows, and then each kind of
        voice with WER and CER, if measured.
        """
        named: list[tuple[str | None, float, float | None]] = [(None, look.loss, look.wer)]
        if len(look.losses) > 1:
            named += [(source, loss, look.wers.get(source)) for source, loss in look.losses.items()]
        for source, loss, wer in named:
            values: dict[str, Any] = {"valid_loss": round(loss, 5)}
            if wer is not None:
                values["valid_wer"] = round(100 * wer, 3)
            self._append(step=position.step, set=source, **values)
        for kind, (wer, cer) in look.kinds.items():
            percent = {"valid_wer": round(100 * wer, 3), "valid_cer": round(100 * cer, 3)}
            self._append(step=position.step, set=f"{KIND_SET}{kind}", **percent)

    def log_evaluation(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the tuned model's scores on each test set, in per cent, in place of older ones."""
        self._keep(lambda row: row.get("set") not in results or "eval_wer" not in row)
        for test_set, models in results.items():
            if tuned := models.get("tuned"):
                scores = tuned["scores"][tuned["profile"]]
                wer, cer = (round(100 * scores[name], 3) for name in ("wer", "cer"))
                self._append(step=step, eval_wer=wer, eval_cer=cer, set=test_set)

    def _append(self, *, step: int, set: str | None = None, **values: Any) -> None:
        row = {"step": step, **({"set": set} if set else {}), **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(metric_line(values, step, set), flush=True)
        for watcher in self._watchers:
            watcher.log({k: values[k] for k in METRICS if values.get(k) is not None}, step, set)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop unwanted lines, and a partial line that a killed run may have left."""
        kept = [line for line in _whole_lines(self._path) if wanted(json.loads(line))]
        write_whole(self._path, "".join(f"{line}\n" for line in kept).encode())


@contextmanager
def open_metrics(config: TrainConfig, step: int) -> Iterator[MetricsLog]:
    """Open the log of a run that resumes from `step`, and the watchers of its configuration.

    Raises:
        TrainError: A watcher cannot be opened.
    """
    with ExitStack() as stack:
        watchers = [stack.enter_context(closing(each)) for each in open_watchers(config, step)]
        yield MetricsLog(config.output_dir / METRICS_FILE, step, watchers)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`; none where there is no file."""
    return [json.loads(line) for line in _whole_lines(path)]


def _word(text: str) -> str:
    """Replace spaces, which separate the fields of a metric line."""
    return "-".join(text.split())


def _whole_lines(path: Path) -> list[str]:
    """Return the complete lines; a killed run may leave a partial one."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("}\n")]
