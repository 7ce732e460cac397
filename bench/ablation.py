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
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.serving.machine import machine_facts  # noqa: E402
from train.config import BLOCKS  # noqa: E402
from train.data.specs import parse_spec  # noqa: E402
from train.report.results import EVALUATION  # noqa: E402

KINDS = ("neural", "people", "synthesis")
DECODER = ("--encoder.rank", "0")
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


def main(
    steps: Annotated[int, typer.Option(help="Of each variant, from the bare base.")] = 300,
    config: Annotated[Path, typer.Option(help="Everything that is the same in all of them.")] = Path(
        "train/configs/whisper-base-mr.yaml"
    ),
    neural: Annotated[list[str] | None, typer.Option(help="Sources of neural voices.")] = None,
    people: Annotated[list[str] | None, typer.Option(help="Sources of people.")] = None,
    synthesis: Annotated[list[str] | None, typer.Option(help="Sources of espeak and festival.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="What each is scored on.")] = None,
    max_eval_clips: Annotated[int, typer.Option(help="Of each test source; 0 scores all.")] = 0,
    distill_weight: Annotated[float, typer.Option(help="Where the encoder is held.")] = 10.0,
    variants: Annotated[str, typer.Option(help="Some of them, divided by ';'; all by default.")] = "",
    runs_dir: Annotated[Path, typer.Option(help="Where run directories go.")] = Path("runs/ablation"),
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = ROOT / "bench" / "ablation.json",
) -> None:
    """Train each variant for the same number of steps, and print what it hears."""
    console = Console(width=160)
    sources = {"neural": neural or [], "people": people or [], "synthesis": synthesis or []}
    chosen = [name.strip() for name in variants.split(";") if name.strip()] or list(VARIANTS)
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise typer.BadParameter(f"'{unknown[0]}' is no variant; they are {'; '.join(VARIANTS)}")
    if not test:
        raise typer.BadParameter("name what to score them on with --test SOURCE")
    wanted = {
        "config": str(config),
        "steps": steps,
        "sources": sources,
        "tests": test,
        "max_eval_clips": max_eval_clips,
    }
    record = _read(output)
    if record.get("of") != wanted:  # figures of other runs are not for the same table
        record = {"of": wanted, "runs": {}}
    record["machine"] = machine_facts(os.cpu_count() or 1)
    for name in chosen:
        if name in record["runs"]:
            continue
        variant = VARIANTS[name]
        if empty := [kind for kind in variant.kinds if not sources[kind]]:
            console.print(f"{name}: left out, for no --{empty[0]} was given")
            continue
        run_dir = runs_dir / name.replace(", ", "-").replace(" ", "-")
        command = command_of(variant, sources, run_dir, record["of"], distill_weight)
        if not record["runs"]:
            command += ["--evaluate_base", "true"]
        console.print(f"{name}: {' '.join(command[1:])}", highlight=False)
        if (status := subprocess.run(command, cwd=ROOT, check=False).returncode) != 0:
            raise SystemExit(f"{name}: training ended with status {status}; the same command goes on")
        record["runs"][name] = {"command": " ".join(["python", *command[1:]]), **figures_of(ROOT / run_dir)}
        record["command"] = " ".join(["python", "bench/ablation.py", *sys.argv[1:]])
        output.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    console.print(table_of(record["runs"]))


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
        "max_eval_clips": str(of["max_eval_clips"]),
        **dict.fromkeys(("publish_to", "continue_from"), "null"),
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
    typer.run(main)
