"""Write what a person reads of a run as one page: RUN_DIR -> RUN_DIR/report/index.html. Opens no model.

It reads what the run has left behind so far; what is not there yet is left out. The page holds its own style
and pictures, so that it can be mailed, archived or served as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from serve.model.artifact import MANIFEST, Manifest, load_manifest
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
from train.report.page import Html, facts, folded, heading, listing, page, paragraph, picture, section, table

EVALUATION = Path("report") / "evaluation.json"
LEFT_OUT = "data/left-out.jsonl"
_LINEAGE_COLUMNS = ("adapter", "made", "steps", "examples", "minutes", "learning rate", "sha256")
_NUMBERS = {
    *("clips", "CER %", "in script %", "WER % (95 % interval)", "S / D / I", "WER %", "seconds", "no."),
    *("steps", "examples", "minutes", "learning rate", "rows", "count"),
}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run directory holds."""

    name: str
    config_text: str
    """The resolved configuration, as YAML."""
    metrics: list[dict[str, Any]]
    manifest: Manifest | None
    """Of the artifact, once there is one."""
    results: dict[str, Any]
    """{test set: {"base" | "tuned": result}}; empty before the evaluation."""
    left_out: list[Drop]
    """Rows of the data that were not used."""


def read_run(run_dir: Path) -> RunRecord:
    """Return what a run directory holds so far.

    Raises:
        TrainError: it is no run directory, or a file in it cannot be read.
    """
    config_file = run_dir / "config.yaml"
    try:
        config_text = config_file.read_text(encoding="utf-8")
        name = str(yaml.safe_load(config_text)["name"])
        metrics = read_metrics(run_dir / "metrics.jsonl")
    except FileNotFoundError as error:
        raise TrainError(f"{run_dir} is no run directory: it holds no config.yaml") from error
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
    """Keep the results of an evaluation, with a row for each utterance, where the report looks for them."""
    path = run_dir / EVALUATION
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": results}, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def write_report(run_dir: Path) -> Path:
    """Write the page of a run and return its path.

    Raises:
        TrainError, ArtifactError: the run directory cannot be read.
    """
    run = read_run(run_dir)
    made = f"artifact of {_date(run.manifest.created)} UTC" if run.manifest else "no artifact yet"
    test_sets = [_test_set(test_set, models) for test_set, models in run.results.items()]
    sections = [_course(run), _scores(run), *test_sets, _lineage(run), _data(run), _configuration(run)]
    target = run_dir / "report" / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(run.name, f"Training run, {made}", sections), encoding="utf-8")
    return target


def _course(run: RunRecord) -> Html:
    """Say how training went: figures, learning curve, throughput."""
    trained = [row for row in run.metrics if "samples_per_s" in row]
    if not trained:
        return section("Training", paragraph("Nothing was logged yet."))
    last = trained[-1]
    valid = [row["valid_loss"] for row in run.metrics if "valid_loss" in row and "set" not in row]
    spent_s = last["trained_s"]
    tiles = {
        "steps": f"{last['step']:,}",
        "examples": f"{last['samples']:,}",
        "minutes": f"{spent_s / 60:,.1f}",
        "examples a second": f"{last['samples'] / spent_s:.2f}" if spent_s else "-",
        "training loss": "-" if last["loss"] is None else f"{last['loss']:.3f}",
        "validation loss": f"{valid[-1]:.3f}" if valid else "-",
        "batches skipped": str(last["skipped_batches"]),
    }
    for row in run.metrics:  # the last look wins
        if "valid_cer" in row:
            kind = row["set"].removeprefix(KIND_SET)
            tiles[f"validation WER / CER, {kind}"] = f"{row['valid_wer']:.1f} / {row['valid_cer']:.1f} %"
    parts = [facts(tiles)]
    if any(row["loss"] is not None for row in trained):
        parts += [
            picture(lambda theme: draw_learning_curve(run.metrics, "learning curve", theme), "Learning curve")
        ]
    parts += [picture(lambda theme: draw_throughput(run.metrics, theme), "Throughput over the steps")]
    return section("Training", *parts)


def _scores(run: RunRecord) -> Html:
    if not run.results:
        return section("Scores", paragraph("Not evaluated."))
    parts = [
        paragraph(voices_note(run.results)),
        picture(lambda theme: draw_scores(run.results, theme), "Word error rates of base and tuned model"),
        table(SCORE_COLUMNS, score_rows(run.results), numbers=_numbers(SCORE_COLUMNS)),
    ]
    if compared := comparison_rows(run.results):
        parts += [
            heading("Tuned against base, on the same clips"),
            table(COMPARISON_COLUMNS, compared),
        ]
    return section("Scores", *parts)


def _test_set(test_set: str, models: dict[str, Any]) -> Html:
    """Return the section of a test set: error rates by length, confusions, worst clips."""
    found = find_findings(models)
    parts = [
        paragraph(f"Rates under the profile {found.profile}."),
        heading("By the length of the clip"),
        picture(lambda theme: draw_durations(found.durations, theme), "Error rate by length"),
        table(DURATION_COLUMNS, duration_rows(found.durations), numbers=_numbers(DURATION_COLUMNS)),
    ]
    if found.confusions:
        parts += [
            heading(f"What the {found.label} model takes for what"),
            table(CONFUSION_COLUMNS, confusion_rows(found.confusions), numbers=("no.",), bar="times"),
            heading(f"Worst clips of the {found.label} model"),
            table(
                UTTERANCE_COLUMNS,
                found.worst,
                numbers=_numbers(UTTERANCE_COLUMNS),
                texts=("said", "written"),
            ),
        ]
    return section(f"Test set {test_set}", *parts)


def _lineage(run: RunRecord) -> Html:
    """Say which adapters this one goes back to, newest first."""
    if run.manifest is None:
        return section("Lineage", paragraph("There is no artifact yet."))
    base = run.manifest.base_model
    rows = [_generation(run.manifest.name, run.manifest.created, run.manifest.training, "")]
    earlier = run.manifest.training.get("continued_from")
    while earlier:
        rows.append(_generation(earlier["name"], earlier["created"], earlier["training"], earlier["sha256"]))
        earlier = earlier["training"].get("continued_from")
    return section(
        "Lineage",
        paragraph(f"Base model {base.name}, fingerprint {base.fingerprint[:12]}."),
        table(_LINEAGE_COLUMNS, rows, numbers=_numbers(_LINEAGE_COLUMNS)),
        folded("Manifest of the artifact", listing(_manifest_text(run.manifest))),
    )


def _generation(name: str, created: str, training: dict[str, Any], sha256: str) -> tuple[str, ...]:
    minutes = training.get("wall_clock_s")
    return (
        name,
        _date(created),
        str(training.get("steps", "")),
        str(training.get("samples", "")),
        f"{minutes / 60:.0f}" if minutes is not None else "",
        str(training.get("learning_rate", "")),
        sha256[:12],
    )


def _date(created: str) -> str:
    return created[:16].replace("T", " ")


def _manifest_text(manifest: Manifest) -> str:
    brief = msgspec.structs.replace(manifest, evaluation={})  # its figures stand above
    return msgspec.json.format(msgspec.json.encode(brief), indent=2).decode()


def _data(run: RunRecord) -> Html:
    """Show how many rows were left out, why, and the first few of each reason."""
    if not run.left_out:
        return Html("")
    counts = Counter(str(drop.reason) for drop in run.left_out)
    rows = []
    for reason, count in counts.most_common():
        told = [f"{drop.origin}: {drop.detail}" for drop in run.left_out if drop.reason == reason]
        rows.append((reason, str(count), "; ".join(told[:3])))
    return section("Data left out", table(("reason", "rows", "for example"), rows, numbers=("rows",)))


def _configuration(run: RunRecord) -> Html:
    return section("Configuration", folded("config.yaml, with every default", listing(run.config_text)))


def _numbers(columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(column for column in columns if column in _NUMBERS)


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
