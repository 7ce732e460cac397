"""Measure the service and its peers: the same merged weights, the same recordings, the same threads.

    make bench-serve                                        # everything, about 25 minutes on two quiet cores
    python bench/serve.py --quick                           # a test of the benchmark, in minutes
    python bench/serve.py --only short,concurrent,long      # some sections
    python bench/serve.py --manifest FILE.jsonl             # other recordings

Peers are faster-whisper, transformers, openai-whisper and whisper.cpp (extra `bench`). Each is warm, has its
own process, and is paired in time with ours. A peer or section that fails is reported and skipped.
Writes bench/serve.json and bench/serve.png.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import typer  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.cuts import measure_cuts  # noqa: E402
from bench.serving.figures import Figures  # noqa: E402
from bench.serving.latency import measure_beside, measure_start, measure_upload  # noqa: E402
from bench.serving.machine import machine_facts  # noqa: E402
from bench.serving.memory import measure_memory  # noqa: E402
from bench.serving.no_speech import measure_no_speech  # noqa: E402
from bench.serving.quality import measure_accuracy, measure_bad_input, measure_streaming  # noqa: E402
from bench.serving.report import draw_speeds, headline, tables  # noqa: E402
from bench.serving.setup import NO_SPEECH, QUICK, TEST_SETS, Plan, Setup  # noqa: E402
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


def main(
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Manifests to score; the built test sets if none.")
    ] = None,
    model_dir: Annotated[Path, typer.Option(help="Artifact to serve, and to merge for the peers.")] = ROOT
    / "model_artifacts"
    / "whisper-base-mr",
    engine: Annotated[str, typer.Option(help="Engine of our service.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of everyone; 0: all cores.")] = 0,
    only: Annotated[str, typer.Option(help=f"Sections, with commas; of {','.join(SECTIONS)}.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Few clips: does it work?")] = False,
    output: Annotated[Path, typer.Option(help="Where the figures go; the picture lies beside.")] = ROOT
    / "bench"
    / "serve.json",
) -> None:
    """Measure the service and its peers, and write the figures."""
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        raise typer.BadParameter(f"--only knows no section '{min(unknown)}'")
    manifests = tuple(manifest or TEST_SETS)
    needed = [*manifests, *([NO_SPEECH] if "no_speech" in chosen else [])]
    if missing := [path for path in needed if not path.is_file()]:
        raise SystemExit(f"{missing[0]} does not exist: `make data` builds the test sets")
    console = Console(width=150)
    n_threads = threads or len(os.sched_getaffinity(0))
    record: Figures = {
        "command": " ".join(["python", "bench/serve.py", *sys.argv[1:]]),
        "quick": quick,
        "engine": engine,
        "machine": machine_facts(n_threads),
    }
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
    output.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for table in tables(sections):
        console.print(table)
    for what, reason in record["failed"].items():
        console.print(f"[red]failed[/red] {what}: {reason}", highlight=False)
    cpu, picture = record["machine"]["cpu"], output.with_suffix(".png")
    drawn = draw_speeds(
        sections, picture, f"whisper-base, the same merged weights, {n_threads} threads of {cpu}"
    )
    console.print(f"written to {output}" + (f" and {picture}" if drawn else ""))


def measure(setup: Setup, chosen: list[str], console: Console) -> tuple[Figures, Figures, Figures]:
    """Run sections in their order; return their figures, what failed and why, and how long each took."""
    sections: Figures = {}
    failed: Figures = {}
    took_s: Figures = {}
    for name in (name for name in SECTIONS if name in chosen):
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


if __name__ == "__main__":
    typer.run(main)
