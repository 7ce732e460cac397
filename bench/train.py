"""Measure training: samples a second and peak memory of `train/run.py` against the usual recipe.

Writes bench/train.json.

    python bench/train.py                        # speed and memory, about five minutes
    python bench/train.py --wer-clips 240        # also WER after the same clips, eight minutes more

Both recipes run as child processes, in turn, on the same clips of 3 to 6 s from the corpus of `make data`;
the ratio reported is the median over the pairs. Our recipe simulates rooms once per machine, which takes a
minute of the first run, and caches them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.machine import begin_record, write_record  # noqa: E402
from train.data.manifest import Clip, read_manifest  # noqa: E402
from train.evaluate.scoring import score  # noqa: E402

FILE = click.Path(path_type=Path)
CLIP_S = (3.0, 6.0)
REFERENCE_STEPS = 3
OUR_STEPS = 12
_GIB = 2**30


def choose_clips(manifest: Path, count: int, target: Path) -> list[Clip]:
    """Write a manifest of the first `count` clips of 3 to 6 s, and return them."""
    clips = [clip for clip in read_manifest(manifest) if CLIP_S[0] <= clip.duration_s <= CLIP_S[1]][:count]
    rows = [
        {"audio": str(clip.path.resolve()), "text": clip.text, "duration_s": clip.duration_s}
        for clip in clips
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target.write_text("".join(lines), encoding="utf-8")
    return clips


def run_child(*arguments: str) -> float:
    """Run a Python program to its end and return its peak resident memory in GiB."""
    child = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments[0]} ended with status {child.returncode}")
    return float(usage.ru_maxrss) * 1024 / _GIB


def run_reference(clips: Path, steps: int, scratch: Path, test: Path | None = None) -> dict[str, Any]:
    """Return samples a second, peak memory, and texts where a test manifest is given."""
    output = scratch / "reference.json"
    arguments = ["--manifest", str(clips), "--steps", str(steps), "--json", str(output)]
    arguments += ["--test-manifest", str(test)] if test else []
    peak_gib = run_child("bench/reference_recipe.py", *arguments)
    record = json.loads(output.read_text(encoding="utf-8"))
    step_s = statistics.median(record["steps_s"][1:])
    return {
        "samples_per_s": record["batch_clips"] / step_s,
        "peak_gib": peak_gib,
        "texts": record.get("texts", []),
    }


def run_ours(clips: Path, options: list[str], scratch: Path, test: Path | None = None) -> dict[str, Any]:
    """Return the same figures of `train/run.py` with the committed configuration and a new adapter."""
    run = scratch / "ours"
    arguments = ["--config", "train/configs/whisper-base-mr.yaml", "--output_dir", str(run)]
    arguments += ["--continue_from", "null", "--publish_to", "null", "--resume", "never"]
    arguments += ["--train_data", str(clips), "--valid_data", "[]", "--evaluate_base", "false"]
    arguments += ["--test_data", str(test) if test else "[]", "--log_every_steps", "1", *options]
    peak_gib = run_child("train/run.py", *arguments)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [row["samples_per_s"] for row in rows[2:] if "samples_per_s" in row]  # warm
    texts: list[str] = []
    if test:
        results = json.loads((run / "report" / "evaluation.json").read_text(encoding="utf-8"))["results"]
        texts = [row["hypothesis"] for row in results[test.stem]["tuned"]["utterances"]]
    return {"samples_per_s": statistics.median(rates), "peak_gib": peak_gib, "texts": texts}


@click.command(context_settings={"show_default": True})
@click.option(
    "--manifest", type=FILE, default=ROOT / "data/mr/train.jsonl", help="Corpus to take clips from."
)
@click.option("--test-manifest", type=FILE, default=ROOT / "data/mr/valid.jsonl", help="Clips to transcribe.")
@click.option("--clips", default=240, help="Clips to train on.")
@click.option("--pairs", default=3, help="How often each recipe is timed.")
@click.option("--wer-clips", default=0, help="Train on this many clips, then compare WER; 0: not.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "train.json", help="File of the figures.")
def main(manifest: Path, test_manifest: Path, clips: int, pairs: int, wer_clips: int, output: Path) -> None:
    """Measure our training against the usual recipe, on the same clips and machine."""
    if not manifest.is_file():
        raise SystemExit(f"{manifest} does not exist: `make data` builds the corpus")
    record = begin_record(torch.get_num_threads())
    runs: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        timed = scratch / "timed.jsonl"
        choose_clips(manifest, clips, timed)
        for _ in range(pairs):
            runs.append(
                {
                    "reference": run_reference(timed, REFERENCE_STEPS, scratch),
                    "ours": run_ours(timed, ["--max_steps", str(OUR_STEPS)], scratch),
                }
            )
        wer = _compare_wer(manifest, test_manifest, wer_clips, scratch) if wer_clips else {}
    record |= {"headline": _headline(runs, wer), "runs": _without_texts(runs), "wer": wer}
    write_record(record, output)
    Console().print(record["headline"])
    Console().print(f"written to {output}")


def _headline(runs: list[dict[str, dict[str, Any]]], wer: dict[str, Any]) -> dict[str, float]:
    """Return the median over the pairs of how many times the reference's figures ours are, and both WERs."""

    def ratio(figure: str) -> float:
        return round(statistics.median(run["ours"][figure] / run["reference"][figure] for run in runs), 3)

    return {
        "samples_per_s_ratio": ratio("samples_per_s"),
        "peak_memory_ratio": ratio("peak_gib"),
        **({"wer_reference": wer["reference"], "wer_ours": wer["ours"]} if wer else {}),
    }


def _without_texts(runs: list[dict[str, dict[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
    return [{name: {k: v for k, v in of.items() if k != "texts"} for name, of in run.items()} for run in runs]


def _compare_wer(manifest: Path, test_manifest: Path, count: int, scratch: Path) -> dict[str, Any]:
    """Train both recipes once over the same clips and score them on the same unseen sentences."""
    train, test = scratch / "train.jsonl", scratch / "test.jsonl"
    n_clips = len(choose_clips(manifest, count, train))
    references = [clip.text for clip in choose_clips(test_manifest, 40, test)]
    reference = run_reference(train, -(-n_clips // 4), scratch, test)
    ours = run_ours(train, ["--epochs", "1", "--learning_rate", "1e-3", "--batch_s", "24"], scratch, test)
    return {
        "train_clips": n_clips,
        "test_clips": len(references),
        "reference": score(references, reference["texts"], "marathi").wer,
        "ours": score(references, ours["texts"], "marathi").wer,
        "seconds_of_training_ratio": round(ours["samples_per_s"] / reference["samples_per_s"], 2),
    }


if __name__ == "__main__":
    main()
