"""Write the model card of an artifact: what it is, how it was made, how well it hears. Opens no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve.model.artifact import load_manifest
from train.config import TrainConfig
from train.evaluate.pictures import draw_learning_curve
from train.evaluate.tables import score_markdown
from train.loop.loop import Outcome
from train.loop.metrics import read_metrics


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
    """Return the artifact's README: what it is, how it was made, how well it hears, where it fails.

    Args:
        config: Configuration of the run that made it.
        outcome: How that run ended.
        training: The manifest's record of that run.
        scores: Results as {test set: {model: result}}.
    """
    targets = ", ".join(config.lora_targets)
    context = "windows of the clip's own length" if config.encoder_context == "dynamic" else "30 s windows"
    return f"""# {config.name}

A LoRA adapter for `{config.base_model}`, language `{config.language}`, task `{config.task}`:
rank {config.lora_rank}, alpha {config.lora_alpha}, on {targets}.
Trained on {context}, {"with" if config.timestamp_probability else "without"} timestamp tokens.

Made by `python train/run.py --config train/configs/{config.name}.yaml`: {outcome.step} steps,
{outcome.samples:,} examples, {outcome.trained_s / 60:.0f} minutes of wall-clock time{_before(training)}.

Served by `python -m serve --model-dir DIR`, where DIR is this directory.

## How well it hears

Word and character error rates in per cent through the serving pipeline. No sentence and no voice of a test
set was used in training. `marathi` compares without punctuation and with one spelling for joiners, eyelash ra
and digits.

{score_markdown(scores)}

![Learning curve](learning-curve.png)

## What to expect

The transcript has no punctuation. Figures say how well the adapter does on recordings like those of the test
sets; for others, score it on your own: `python -m train.evaluate --model-dir DIR --manifest FILE.jsonl`.
"""


def _before(training: dict[str, Any]) -> str:
    """Return which adapter training started from, and its own predecessors."""
    if not (earlier := training.get("continued_from")):
        return ""
    steps = f"{earlier['training']['steps']} steps, sha256 {earlier['sha256'][:12]}"
    return f",\ngoing on from `{earlier['name']}` ({steps}){_before(earlier['training'])}"
