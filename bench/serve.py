"""Measure the service and its peers: the same merged weights, the same recordings, the same threads.

    make bench-serve                                        # everything, about 35 minutes on two quiet cores
    python bench/serve.py --quick                           # a test of the benchmark, in minutes
    python bench/serve.py --only short,concurrent,long      # some sections
    python bench/serve.py --manifest FILE.jsonl             # other recordings

Peers are faster-whisper, transformers, openai-whisper and whisper.cpp (extra `bench`). Each is warm, has its
own process, and is paired in time with ours. A peer or section that fails is reported and skipped.
Writes bench/serve.json and bench/serve.png.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.cuts import measure_cuts  # noqa: E402
from bench.serving.figures import Figures  # noqa: E402
from bench.serving.latency import measure_beside, measure_start, measure_upload  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.memory import measure_memory  # noqa: E402
from bench.serving.no_speech import measure_no_speech  # noqa: E402
from bench.serving.quality import measure_accuracy, measure_bad_input, measure_streaming  # noqa: E402
from bench.serving.report import draw_speeds, headline, tables  # noqa: E402
from bench.serving.setup import (  # noqa: E402
    NO_SPEECH,
    QUICK,
    SHIPPED,
    TEST_SETS,
    Plan,
    Setup,
    required,
    sections_named,
)
from bench.serving.speed import (  # noqa: E402
    measure_concurrent,
    measure_drift,
    measure_long,
    measure_short,
)
from bench.serving.weights import prepare_weights  # noqa: E402
from serve.model.artifact import load_artifact  # noqa: E402

SECTIONS: dict[str, Callable[[Setup], Figures]] = {
    "accuracy": measure_accuracy,
    "streaming": measure_streaming,
    "bad_input": measure_bad_input,
    "start": measure_start,
    "short": measure_short,
    "drift": measure_drift,
    "concurrent": measure_concurrent,
    "long": measure_long,
    "beside": measure_beside,
    "upload": measure_upload,
    "memory": measure_memory,
    "cuts": measure_cuts,
    "no_speech": measure_no_speech,
}


FILE = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option(
    "--manifest", "manifests", type=FILE, multiple=True, default=TEST_SETS, help="Manifest to score."
)
@click.option(
    "--model-dir",
    type=FILE,
    default=SHIPPED,
    help="Artifact to serve, and to merge for the peers.",
)
@click.option("--engine", default="auto", help="Engine of our service.")
@click.option("--threads", default=0, help="CPU threads of everyone; 0: all cores.")
@click.option("--only", default="", help=f"Sections, with commas, of {', '.join(SECTIONS)}; all by default.")
@click.option("--quick", is_flag=True, help="Few clips: does it work?")
@click.option(
    "--output",
    type=FILE,
    default=ROOT / "bench" / "serve.json",
    help="File of the figures; the picture lies beside.",
)
def main(
    manifests: tuple[Path, ...],
    model_dir: Path,
    engine: str,
    threads: int,
    only: str,
    quick: bool,
    output: Path,
) -> None:
    """Measure the service and its peers, and write the figures."""
    chosen = sections_named(only, SECTIONS)
    required([*manifests, *([NO_SPEECH] if "no_speech" in chosen else [])])
    console = Console(width=150)
    n_threads = threads or len(os.sched_getaffinity(0))
    record: Figures = {**begin_record(n_threads), "quick": quick, "engine": engine}
    with tempfile.TemporaryDirectory(prefix="shrota-bench-") as scratch:
        setup = Setup(
            plan=QUICK if quick else Plan(),
            artifact_dir=model_dir.resolve(),
            engine=engine,
            language=load_artifact(model_dir).manifest.language,
            n_threads=n_threads,
            manifests=manifests,
            scratch=Path(scratch),
        )
        console.print("merging the adapter for every peer")
        faults = prepare_weights(setup)
        sections, failed, took_s = measure(setup, chosen, console)
    record |= {
        "headline": headline(sections),
        **sections,
        "failed": {**{f"weights, {name}": fault for name, fault in faults.items()}, **failed},
        "took_s": took_s,
    }
    write_record(record, output)
    print_record(record, sections, output, console)


def measure(setup: Setup, chosen: list[str], console: Console) -> tuple[Figures, Figures, Figures]:
    """Run sections in their order; return their figures, what failed and why, and how long each took."""
    sections: Figures = {}
    failed: Figures = {}
    took_s: Figures = {}
    for name in chosen:
        started = time.monotonic()
        try:
            sections[name] = SECTIONS[name](setup)
        except Exception as error:  # the other sections are worth having
            console.print(f"[red]section {name} failed[/red]")
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            failed |= {f"{name}, {peer}": why for peer, why in sections[name].pop("failed", {}).items()}
        took_s[name] = round(time.monotonic() - started, 1)
    return sections, failed, took_s


def print_record(record: Figures, sections: Figures, output: Path, console: Console) -> None:
    """Print tables and what failed, and draw the speeds beside `output`."""
    for table in tables(sections):
        console.print(table)
    for what, reason in record["failed"].items():
        console.print(f"[red]failed[/red] {what}: {reason}", highlight=False)
    machine, picture = record["machine"], output.with_suffix(".png")
    title = f"whisper-base, the same merged weights, {machine['threads']} threads of {machine['cpu']}"
    drawn = draw_speeds(sections, picture, title)
    console.print(f"written to {output}" + (f" and {picture}" if drawn else ""))


if __name__ == "__main__":
    main()
