"""Details of an evaluation: WER by duration, confusions and worst clips, as Markdown and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.evaluate.confusions import Confusion, find_confusions
from train.evaluate.durations import DurationBucket, wer_by_duration
from train.evaluate.evaluation import word_errors
from train.evaluate.pictures import draw_confusions, draw_durations, draw_scores
from train.evaluate.tables import (
    COMPARISON_COLUMNS,
    CONFUSION_COLUMNS,
    DURATION_COLUMNS,
    UTTERANCE_COLUMNS,
    Row,
    comparison_rows,
    confusion_rows,
    duration_rows,
    markdown_table,
    score_markdown,
    voices_note,
    worst_utterances,
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Details behind the scores on one test set."""

    label: str
    """The model whose confusions and worst clips these are: `tuned`, or `base` if it is the only one."""
    profile: str
    durations: dict[str, list[DurationBucket]]
    """WER by duration, for every scored model."""
    confusions: list[Confusion]
    worst: list[Row]


def find_findings(models: dict[str, dict[str, Any]], *, seed: int = 0) -> Findings:
    """Return the details behind one test set's results, {"base" | "tuned": result}."""
    label = "tuned" if "tuned" in models else "base"
    result = models[label]
    rows = result["utterances"]
    texts = ([row["reference"] for row in rows], [row["hypothesis"] for row in rows])
    return Findings(
        label=label,
        profile=result["profile"],
        durations={
            name: wer_by_duration(
                [row["duration_s"] for row in each["utterances"]], word_errors(each), seed=seed
            )
            for name, each in models.items()
        },
        confusions=find_confusions(
            *texts, result["profile"], languages=[row.get("language") for row in rows]
        ),
        worst=worst_utterances(result),
    )


def findings_markdown(results: dict[str, Any], *, seed: int = 0) -> str:
    """Return all findings of an evaluation as a Markdown page."""
    parts = ["# Evaluation", voices_note(results), score_markdown(results)]
    if compared := comparison_rows(results):
        parts += [markdown_table(COMPARISON_COLUMNS, compared)]
    for test_set, models in results.items():
        found = find_findings(models, seed=seed)
        parts += [
            f"## {test_set}",
            f"Rates under the profile `{found.profile}`.",
            markdown_table(DURATION_COLUMNS, duration_rows(found.durations)),
        ]
        if found.confusions:
            parts += [
                f"### What the {found.label} model takes for what",
                markdown_table(CONFUSION_COLUMNS, confusion_rows(found.confusions)),
                f"### Worst clips of the {found.label} model",
                markdown_table(UTTERANCE_COLUMNS, found.worst),
            ]
    return "\n\n".join(parts) + "\n"


def draw_findings(results: dict[str, Any], directory: Path, *, seed: int = 0) -> list[Path]:
    """Write the pictures of an evaluation into a directory, as PNG, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {"scores.png": draw_scores(results)}
    for test_set, models in results.items():
        found = find_findings(models, seed=seed)
        pictures[f"{test_set}-wer-by-duration.png"] = draw_durations(found.durations)
        if found.confusions:
            pictures[f"{test_set}-confusions.png"] = draw_confusions(found.confusions)
    for name, picture in pictures.items():
        (directory / name).write_bytes(picture)
    return [directory / name for name in pictures]
