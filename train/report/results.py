"""Write the page of a run: RUN_DIR -> RUN_DIR/report/index.html. Opens no model.

The page shows what the run has written so far. It holds its own style and pictures, so it can be mailed,
archived or served as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from serve.model.artifact import MANIFEST, Manifest, load_manifest
from serve.model.durable_write import write_whole
from train.data.filters import Drop, read_drops
from train.errors import TrainError
from train.evaluate.findings import find_findings
from train.evaluate.pictures import draw_durations, draw_learning_curve, draw_scores, draw_throughput
from train.evaluate.tables import (
    COMPARISON_COLUMNS,
    CONFUSION_COLUMNS,
    DURATION_COLUMNS,
    SCORE_COLUMNS,
    UTTERANCE_COLUMNS,
    comparison_rows,
    confusion_rows,
    duration_rows,
    score_rows,
    voices_note,
)
from train.loop.metrics import KIND_SET, read_metrics
from train.report.page import Picture, Table, draw_picture, render

EVALUATION = Path("report") / "evaluation.json"
LEFT_OUT = "data/left-out.jsonl"
_LINEAGE_COLUMNS = ("adapter", "made", "steps", "examples", "minutes", "learning rate", "sha256")
_NUMBERS = {
    *("clips", "CER %", "in script %", "WER % (95 % interval)", "S / D / I", "WER %", "seconds", "no."),
    *("steps", "examples", "minutes", "learning rate", "rows", "count"),
}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The contents of a run directory."""

    name: str
    config_text: str
    """The resolved configuration, as YAML."""
    metrics: list[dict[str, Any]]
    manifest: Manifest | None
    """Manifest of the artifact, once there is one."""
    results: dict[str, Any]
    """{test set: {"base" | "tuned": result}}; empty before the evaluation."""
    left_out: list[Drop]
    """Rows of the data that were dropped."""


def read_run(run_dir: Path) -> RunRecord:
    """Read what a run directory holds so far.

    Raises:
        TrainError: It is not a run directory, or a file in it cannot be read.
    """
    config_file = run_dir / "config.yaml"
    try:
        config_text = config_file.read_text(encoding="utf-8")
        name = str(yaml.safe_load(config_text)["name"])
        metrics = read_metrics(run_dir / "metrics.jsonl")
    except FileNotFoundError as error:
        raise TrainError(f"{run_dir} is not a run directory: it has no config.yaml") from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise TrainError(f"{run_dir}: config.yaml or metrics.jsonl cannot be read: {error}") from error
    artifact = run_dir / "artifact"
    results = _read_json(run_dir / EVALUATION).get("results", {})
    if any("by_kind" not in result for models in results.values() for result in models.values()):
        raise TrainError(
            f"{run_dir / EVALUATION} was written by another version: score the artifact again with"
            f" shrota evaluate --report {run_dir / 'report'}"
        )
    return RunRecord(
        name=name,
        config_text=config_text,
        metrics=metrics,
        manifest=load_manifest(artifact) if (artifact / MANIFEST).is_file() else None,
        results=results,
        left_out=_read_drops(run_dir / LEFT_OUT),
    )


def save_results(run_dir: Path, results: dict[str, Any]) -> None:
    """Store the results of an evaluation, with a row for each utterance, where the report finds them."""
    path = run_dir / EVALUATION
    write_whole(path, (json.dumps({"results": results}, ensure_ascii=False, indent=1) + "\n").encode())


def write_report(run_dir: Path) -> Path:
    """Write the page of a run, and return its path.

    Raises:
        TrainError, ArtifactError: The run directory cannot be read.
    """
    run = read_run(run_dir)
    trained = [row for row in run.metrics if "samples_per_s" in row]
    text = render(
        run=run,
        minute=_minute,
        tiles=_tiles(run, trained[-1]) if trained else {},
        course=_course(run, trained),
        scores=_scores(run),
        test_sets=[_test_set(name, models) for name, models in run.results.items()],
        lineage=_table(_LINEAGE_COLUMNS, _lineage(run.manifest) if run.manifest else []),
        manifest_text=_manifest_text(run.manifest) if run.manifest else "",
        left_out=_table(("reason", "rows", "for example"), _left_out(run)),
    )
    target = run_dir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def _table(columns: tuple[str, ...], rows: Sequence[Sequence[str]], **kinds: Any) -> Table:
    return Table(columns=columns, rows=rows, numbers=_NUMBERS, **kinds)


def _tiles(run: RunRecord, last: dict[str, Any]) -> dict[str, str]:
    """Return the headline numbers of a run, from the last row of its log."""
    valid = [row["valid_loss"] for row in run.metrics if "valid_loss" in row and "set" not in row]
    trained_s = last["trained_s"]
    tiles = {
        "steps": f"{last['step']:,}",
        "examples": f"{last['samples']:,}",
        "minutes": f"{trained_s / 60:,.1f}",
        "examples a second": f"{last['samples'] / trained_s:.2f}" if trained_s else "-",
        "training loss": "-" if last["loss"] is None else f"{last['loss']:.3f}",
        "validation loss": f"{valid[-1]:.3f}" if valid else "-",
        "batches skipped": str(last["skipped_batches"]),
    }
    for row in run.metrics:  # later rows override earlier ones
        if "valid_cer" in row:
            kind = row["set"].removeprefix(KIND_SET)
            tiles[f"validation WER / CER, {kind}"] = f"{row['valid_wer']:.1f} / {row['valid_cer']:.1f} %"
    return tiles


def _course(run: RunRecord, trained: list[dict[str, Any]]) -> list[Picture]:
    """Return the pictures of loss and throughput, as far as there are values."""
    pictures = []
    if any(row["loss"] is not None for row in trained):
        pictures += [
            draw_picture(
                lambda theme: draw_learning_curve(run.metrics, "learning curve", theme), "Learning curve"
            )
        ]
    if trained:
        pictures += [
            draw_picture(lambda theme: draw_throughput(run.metrics, theme), "Throughput over the steps")
        ]
    return pictures


def _scores(run: RunRecord) -> dict[str, Any]:
    """Return picture and tables of all test sets; empty before the evaluation."""
    if not run.results:
        return {}
    return {
        "note": voices_note(run.results),
        "picture": draw_picture(
            lambda theme: draw_scores(run.results, theme), "Word error rates of base and tuned model"
        ),
        "table": _table(SCORE_COLUMNS, score_rows(run.results)),
        "compared": _table(COMPARISON_COLUMNS, comparison_rows(run.results)),
    }


def _test_set(name: str, models: dict[str, Any]) -> dict[str, Any]:
    """Return WER by duration, confusions and worst clips of a test set."""
    found = find_findings(models)
    return {
        "name": name,
        "found": found,
        "picture": draw_picture(lambda theme: draw_durations(found.durations, theme), "Error rate by length"),
        "durations": _table(DURATION_COLUMNS, duration_rows(found.durations)),
        "confusions": _table(CONFUSION_COLUMNS, confusion_rows(found.confusions), bar="times"),
        "worst": _table(UTTERANCE_COLUMNS, found.worst, texts=("said", "written")),
    }


def _lineage(manifest: Manifest) -> list[tuple[str, ...]]:
    """Return a row for this adapter and for each predecessor it was continued from, newest first."""
    rows = [_generation(manifest.name, manifest.created, manifest.training, "")]
    earlier = manifest.training.get("continued_from")
    while earlier:
        rows.append(_generation(earlier["name"], earlier["created"], earlier["training"], earlier["sha256"]))
        earlier = earlier["training"].get("continued_from")
    return rows


def _generation(name: str, created: str, training: dict[str, Any], sha256: str) -> tuple[str, ...]:
    trained_s = training.get("wall_clock_s")
    return (
        name,
        _minute(created),
        str(training.get("steps", "")),
        str(training.get("samples", "")),
        f"{trained_s / 60:.0f}" if trained_s is not None else "",
        str(training.get("learning_rate", "")),
        sha256[:12],
    )


def _minute(created: str) -> str:
    return created[:16].replace("T", " ")


def _manifest_text(manifest: Manifest) -> str:
    brief = msgspec.structs.replace(manifest, evaluation={})  # shown above
    return msgspec.json.format(msgspec.json.encode(brief), indent=2).decode()


def _left_out(run: RunRecord) -> list[tuple[str, ...]]:
    """Return a row for each reason for which rows were dropped: the count, and three examples."""
    rows: list[tuple[str, ...]] = []
    for reason, count in Counter(str(drop.reason) for drop in run.left_out).most_common():
        details = [f"{drop.origin}: {drop.detail}" for drop in run.left_out if drop.reason == reason]
        rows.append((reason, str(count), "; ".join(details[:3])))
    return rows


def _read_drops(path: Path) -> list[Drop]:
    try:
        return list(read_drops(path.read_text(encoding="utf-8"))) if path.is_file() else []
    except (OSError, ValueError, KeyError) as error:
        raise TrainError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} cannot be read: {error}") from error
    return values if isinstance(values, dict) else {}
