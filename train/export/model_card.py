"""Write an artifact's model card: what it is, how it was made, its error rates. Opens no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.model.artifact import load_manifest
from train.config import TrainConfig
from train.data.records import VOICE_KINDS
from train.evaluate.pictures import draw_learning_curve
from train.evaluate.tables import markdown_table, score_markdown, voices_note
from train.loop.loop import Outcome
from train.loop.metrics import read_metrics

_HEARD_COLUMNS = ("voices", "language", "source", "clips", "hours", "weight", "heard by")


def write_model_card(
    config: TrainConfig, outcome: Outcome, artifact_dir: Path, scores: dict[str, Any]
) -> None:
    """Write `README.md` and `learning-curve.png` into an artifact."""
    rows = read_metrics(config.output_dir / "metrics.jsonl")
    (artifact_dir / "learning-curve.png").write_bytes(draw_learning_curve(rows, config.name))
    (artifact_dir / "README.md").write_text(
        model_card(config, outcome, load_manifest(artifact_dir).training, scores), encoding="utf-8"
    )


def model_card(
    config: TrainConfig, outcome: Outcome, training: dict[str, Any], scores: dict[str, Any]
) -> str:
    """Return the artifact's README: what it is, how it was made, its error rates, its limits.

    Args:
        training: The manifest's record of that run.
        scores: Results as {test set: {model: result}}.
    """
    context = "windows of the clip's own length" if config.encoder_context == "dynamic" else "30 s windows"
    return f"""# {config.name}

A LoRA adapter for `{config.base_model}`, language `{config.language}`, task `{config.task}`:
{_blocks(config)}.
Trained on {context}, {"with" if config.timestamp_probability else "without"} timestamp tokens.

Made by `shrota train`: {outcome.step} steps, {outcome.samples:,} examples,
{outcome.trained_s / 60:.0f} minutes of wall-clock time{_before(training)}.

Served by `shrota serve --model-dir DIR`, where DIR is this directory.

## How well it hears

{voices_note(scores) or "It was not scored."}

Word and character error rates in per cent through the serving pipeline, people first. {_held_out(config)}
`marathi` compares without punctuation and with one spelling for joiners, eyelash ra and digits; `indic`, for
other languages, without punctuation. "In script" is the share of letters in the script of what was said.

{score_markdown(scores)}

## What it heard in training

{_heard(training)}

![Learning curve](learning-curve.png)

## What to expect

The transcript has no punctuation. Figures say how well the adapter does on recordings like those of the test
sets; for others, score it on your own: `shrota evaluate --model-dir DIR --manifest FILE.jsonl`.
"""


def _blocks(config: TrainConfig) -> str:
    """Describe which layers the adapter changes, and by which rank."""
    trained = [block for block in config.blocks if block.is_trained]
    told = {
        block.name: f"rank {block.rank}, alpha {block.alpha}, on {', '.join(block.targets)}"
        + (f" of layers {', '.join(map(str, block.layers))}" if block.layers else "")
        for block in trained
    }
    if len(trained) > 1 and len(set(told.values())) == 1:
        return f"encoder and decoder at {told['decoder']}"
    left = [block.name for block in config.blocks if not block.is_trained]
    return ";\n".join(
        [f"{name} at {said}" for name, said in told.items()] + [f"{name} as in the base" for name in left]
    )


def _held_out(config: TrainConfig) -> str:
    """Describe what of the test sets was kept out of training."""
    kept = {
        "sentences and voices": "No sentence and no voice of a test set was used in training.",
        "sentences": "No sentence of a test set was used in training; voices may have been.",
        "nothing": "Sentences and voices of the test sets may have been used in training.",
    }
    return kept[config.held_out]


def _heard(training: dict[str, Any]) -> str:
    """Return a table of the training data of this adapter and its predecessors, people first."""
    rows: list[dict[str, Any]] = []
    unknown: list[str] = []
    name, record = "this adapter", training
    while True:
        rows += [{**row, "by": name} for row in record.get("heard", ())]
        unknown += [] if record.get("heard") else [name]
        if not (earlier := record.get("continued_from")):
            break
        name, record = f"`{earlier['sha256'][:12]}`", earlier["training"]
    parts = []
    if rows:
        rows.sort(key=lambda row: VOICE_KINDS.index(row["kind"]))
        parts += [markdown_table(_HEARD_COLUMNS, [_heard_cells(row) for row in rows]), _heard_note(rows)]
    if unknown:
        parts.append(f"The training data of {', '.join(unknown)} is not recorded.")
    return "\n\n".join(parts)


def _heard_cells(row: dict[str, Any]) -> tuple[str, ...]:
    counted = (f"{row['clips']:,}", f"{row['hours']:.2f}", f"{row.get('weight', 1.0):g}")
    return (row["kind"], str(row["language"]), row["source"], *counted, row["by"].replace("`", ""))


def _heard_note(rows: list[dict[str, Any]]) -> str:
    """Describe how much of the training data was spoken by people; a source of several runs counts once."""
    by_source: dict[str, float] = {}
    for row in rows:
        if row["kind"] == "people":
            by_source[row["source"]] = max(row["hours"], by_source.get(row["source"], 0.0))
    hours = sum(by_source.values())
    if not hours:
        return "No recording of people is known to be among it."
    rest = "; the rest was not, as far as is known" if any(row["kind"] != "people" for row in rows) else ""
    return f"{hours:.2f} hours of it were spoken by people{rest}."


def _before(training: dict[str, Any]) -> str:
    """Describe the adapter that training continued, and its predecessors."""
    if not (earlier := training.get("continued_from")):
        return ""
    trained = earlier["training"]
    # An adapter made by another program does not say how long it was trained.
    steps = f"{trained['steps']} steps, " if "steps" in trained else ""
    share = training.get("average_with_start")
    averaged = f", whose weights make up {share:.0%} of the mean exported" if share else ""
    known = f"{steps}sha256 {earlier['sha256'][:12]}"
    return f",\ncontinuing `{earlier['name']}` ({known}){averaged}{_before(trained)}"
