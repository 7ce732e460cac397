"""Write what a person reads of a run: learning curve, score tables, model card. Opens nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve.artifact import load_manifest
from train.config import TrainConfig
from train.loop import Outcome


def write_report(config: TrainConfig, outcome: Outcome, artifact_dir: Path, scores: dict[str, Any]) -> None:
    """Write `report/` of the run directory, and the model card and learning curve of the artifact."""
    report = config.output_dir / "report"
    report.mkdir(parents=True, exist_ok=True)
    (report / "evaluation.json").write_text(
        json.dumps(scores, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    draw_learning_curve(config.output_dir / "metrics.jsonl", artifact_dir / "learning-curve.png", config.name)
    (artifact_dir / "README.md").write_text(
        model_card(config, outcome, load_manifest(artifact_dir).training, scores), encoding="utf-8"
    )
    for test_set, models in scores.items():
        for label, result in models.items():
            lines = [
                f"{row['voice']}\t{row['reference']}\t{row['hypothesis']}\n" for row in result["utterances"]
            ]
            (report / f"{test_set}-{label}.tsv").write_text(
                "voice\treference\thypothesis\n" + "".join(lines), encoding="utf-8"
            )


def draw_learning_curve(metrics: Path, picture: Path, title: str) -> None:
    """Draw training loss, validation loss and learning rate over steps as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    valid = [row for row in rows if "valid_loss" in row]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes.plot(
        [row["step"] for row in trained],
        [row["loss"] for row in trained],
        color="#4c72b0",
        alpha=0.8,
        label="training (augmented)",
    )
    if valid:
        axes.plot(
            [row["step"] for row in valid],
            [row["valid_loss"] for row in valid],
            "o-",
            color="#c44e52",
            label="validation, unseen sentences",
        )
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token, log scale)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    rate = axes.twinx()
    rate.plot(
        [row["step"] for row in trained],
        [row["learning_rate"] for row in trained],
        color="grey",
        lw=0.8,
        ls=":",
        label="learning rate",
    )
    rate.set_ylabel("learning rate")
    handles = [*axes.get_legend_handles_labels()[0], *rate.get_legend_handles_labels()[0]]
    labels = [*axes.get_legend_handles_labels()[1], *rate.get_legend_handles_labels()[1]]
    axes.legend(handles, labels, loc="upper right")
    figure.savefig(picture)
    plt.close(figure)


def model_card(
    config: TrainConfig, outcome: Outcome, training: dict[str, Any], scores: dict[str, Any]
) -> str:
    """Return the artifact's README: what it is, how it was made, how well it hears, where it fails.

    Args:
        config: of the run that made it.
        outcome: how that run ended.
        training: the manifest's record of it.
        scores: {test set: {model: result}}.
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
    """Say what adapter was trained further, and which one that continued."""
    if not (earlier := training.get("continued_from")):
        return ""
    steps = f"{earlier['training']['steps']} steps, sha256 {earlier['sha256'][:12]}"
    return f",\ngoing on from `{earlier['name']}` ({steps}){_before(earlier['training'])}"


def score_markdown(scores: dict[str, Any]) -> str:
    """Return the scores as a Markdown table."""
    lines = [
        "| test set | clips | model | profile | WER % (95 % interval) | CER % | S / D / I |",
        "|---|---|---|---|---|---|---|",
    ]
    for test_set, models in scores.items():
        for label, result in models.items():
            for profile, v in result["scores"].items():
                interval = f"{100 * v['wer']:.1f} ({100 * v['wer_low']:.1f} to {100 * v['wer_high']:.1f})"
                counts = f"{v['substitutions']} / {v['deletions']} / {v['insertions']}"
                cer = f"{100 * v['cer']:.1f}"
                cells = (test_set, v["utterances"], label, profile, interval, cer, counts)
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) if scores else "Not evaluated."
