r"""What decides whether people are heard: the same steps with and without each source and the encoder.

Every variant begins from the bare base and is scored on the same recordings by the serving pipeline. Writes
bench/ablation.json after each; variants that stand there already are not run again, and one that was stopped
goes on where it was.

    python bench/ablation.py --neural data/mr/train-neural.jsonl --synthesis data/mr/train.jsonl \
        --people 'people/hindi.jsonl?weight=4' --test 'people/test.jsonl?label=people' \
        --test 'data/mr/test-neural.jsonl?label=neural' --test data/mr/test-everyday.jsonl --steps 300
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.serving.machine import begin_record, write_record  # noqa: E402
from train.config import BLOCKS  # noqa: E402
from train.data.specs import parse_spec  # noqa: E402
from train.report.results import EVALUATION  # noqa: E402

FILE = click.Path(path_type=Path)
KINDS = ("neural", "people", "synthesis")
DECODER = ("--encoder.rank", "0", "--encoder.learning_rate", "null")
WHOLE = ("--encoder.rank", "null", "--decoder.rank", "null")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One run of the ablation: which kinds of speech it hears, and what is changed in the configuration."""

    kinds: tuple[str, ...] = KINDS
    options: tuple[str, ...] = DECODER
    holds_encoder: bool = False
    """Hold the encoder near its base on the people's recordings."""


VARIANTS = {
    "decoder": Variant(),
    "decoder, no people": Variant(kinds=("neural", "synthesis")),
    "decoder, no neural voices": Variant(kinds=("people", "synthesis")),
    "decoder, no espeak or festival": Variant(kinds=("neural", "people")),
    "all layers": Variant(options=WHOLE),
    "all layers, no people": Variant(kinds=("neural", "synthesis"), options=WHOLE),
    "all layers, no espeak or festival": Variant(kinds=("neural", "people"), options=WHOLE),
    "all layers, encoder held": Variant(options=WHOLE, holds_encoder=True),
}
"""Name -> what is run, in the order of what they tell."""


@click.command(context_settings={"show_default": True})
@click.option("--steps", default=300, help="Steps of each variant, from the bare base.")
@click.option("--batch-s", default=48.0, help="Seconds of speech in a step.")
@click.option(
    "--config",
    default="train/configs/whisper-base-mr.yaml",
    help="Configuration that all variants share.",
)
@click.option("--neural", multiple=True, help="Source of neural voices.")
@click.option("--people", multiple=True, help="Source of people.")
@click.option("--synthesis", multiple=True, help="Source of espeak and festival.")
@click.option("--test", "tests", multiple=True, required=True, help="Source that each is scored on.")
@click.option("--max-eval-clips", default=0, help="Clips of each test source; 0 scores all.")
@click.option(
    "--distill-weight", default=10.0, help="Weight of the loss that holds the encoder, where it is held."
)
@click.option("--variants", default="", help="Some of the variants, divided by ';'; all by default.")
@click.option("--runs-dir", type=FILE, default=Path("runs/ablation"), help="Directory of run directories.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "ablation.json", help="File of the figures.")
def main(variants: str, runs_dir: Path, output: Path, distill_weight: float, **compared: Any) -> None:
    """Train each variant for the same number of steps, and print what it hears."""
    console = Console(width=160)
    chosen = [name.strip() for name in variants.split(";") if name.strip()] or list(VARIANTS)
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise click.BadParameter(f"'{unknown[0]}' is no variant; they are {'; '.join(VARIANTS)}")
    sources = {kind: list(compared.pop(kind)) for kind in KINDS}
    wanted = {**compared, "tests": list(compared["tests"]), "sources": sources}
    kept = _read(output)
    # Figures of other runs are not for the same table.
    runs = kept["runs"] if kept.get("of") == wanted else {}
    record = {**begin_record(os.cpu_count() or 1), "of": wanted, "runs": runs}
    for name in chosen:
        if name in runs:
            continue
        variant = VARIANTS[name]
        if empty := [kind for kind in variant.kinds if not sources[kind]]:
            console.print(f"{name}: left out, for no --{empty[0]} was given")
            continue
        run_dir = runs_dir / name.replace(", ", "-").replace(" ", "-")
        command = command_of(variant, sources, run_dir, wanted, distill_weight)
        if not runs:
            command += ["--evaluate_base", "true"]
        console.print(f"{name}: {' '.join(command[1:])}", highlight=False)
        if (status := subprocess.run(command, cwd=ROOT, check=False).returncode) != 0:
            raise SystemExit(f"{name}: training ended with status {status}; the same command goes on")
        runs[name] = {"command": " ".join(["python", *command[1:]]), **figures_of(ROOT / run_dir)}
        write_record(record, output)
    console.print(table_of(runs))


def command_of(
    variant: Variant,
    sources: dict[str, list[str]],
    run_dir: Path,
    of: dict[str, Any],
    distill_weight: float,
) -> list[str]:
    """Return the command that trains and scores a variant."""
    heard = [source for kind in variant.kinds for source in sources[kind]]
    options = {
        "name": "ablation",
        "output_dir": str(run_dir),
        "train_data": _listed(heard),
        "valid_data": "[]",
        "test_data": _listed(of["tests"]),
        "max_steps": str(of["steps"]),
        "batch_s": str(of["batch_s"]),
        "learning_rate": "1e-3",  # the configuration's is for a run that goes on from an adapter
        "max_eval_clips": str(of["max_eval_clips"]),
        **dict.fromkeys(("publish_to", "continue_from"), "null"),
        "average_with_start": "0",
        "continue_blocks": _listed(BLOCKS),
        **dict.fromkeys(("export_formats", "distill_data"), "[]"),
        **dict.fromkeys(("evaluate_base", "export_best", "tensorboard"), "false"),
        **dict.fromkeys(("eval_every_steps", "valid_clips", "early_stopping_evals", "distill_weight"), "0"),
        "best_by": "loss",
    }
    if variant.holds_encoder:
        people = [str(parse_spec(source).clips_alone) for source in sources["people"]]
        options |= {"distill_data": _listed(people), "distill_weight": str(distill_weight)}
    written = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [sys.executable, "train/run.py", "--config", of["config"], *variant.options, *written]


def figures_of(run_dir: Path) -> dict[str, Any]:
    """Return what a finished run says of itself: its last loss, and WER and CER in per cent on each test."""
    results = json.loads((run_dir / EVALUATION).read_text(encoding="utf-8"))["results"]
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    trained = [row for row in map(json.loads, lines) if "samples_per_s" in row]
    scores: dict[str, dict[str, Any]] = {}
    for test, models in results.items():
        for label, result in models.items():
            found = result["scores"][result["profile"]]
            low, high = (round(100 * found[name], 1) for name in ("wer_low", "wer_high"))
            scores.setdefault(label, {})[test] = {
                **{name: round(100 * found[name], 1) for name in ("wer", "cer")},
                "wer_95": [low, high],
                "clips": found["utterances"],
            }
    return {"scores": scores, "trained_s": trained[-1]["trained_s"], "samples": trained[-1]["samples"]}


def table_of(runs: dict[str, dict[str, Any]]) -> Table:
    """Return WER / CER of each variant on each test, the bare base first where it was scored."""
    tests = list(dict.fromkeys(test for run in runs.values() for test in run["scores"].get("tuned", {})))
    table = Table("variant", *tests, "minutes", title="WER / CER, per cent")
    for run in runs.values():
        if base := run["scores"].get("base"):
            table.add_row("bare base", *(_cell(base.get(test)) for test in tests), "")
    for name, run in runs.items():
        cells = [_cell(run["scores"]["tuned"].get(test)) for test in tests]
        table.add_row(name, *cells, f"{run['trained_s'] / 60:.0f}")
    return table


def _cell(scores: dict[str, Any] | None) -> str:
    return f"{scores['wer']:.1f} / {scores['cer']:.1f}" if scores else "-"


def _listed(items: Sequence[str]) -> str:
    """Return a list as an option of the trainer: JSON is YAML, whatever a name holds."""
    return json.dumps(list(items), ensure_ascii=False)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


if __name__ == "__main__":
    main()
