"""Compare this tree with another commit: start, short clips, eight clients, ten minutes, texts and training.

    python bench/commits.py 8373332                         # everything, about 25 minutes on two quiet cores
    python bench/commits.py HEAD~5 --only short,texts       # some sections
    python bench/commits.py main --manifest FILE.jsonl      # other recordings

Both trees run in the same environment and serve the same adapter. Each call of one is paired with a call
of the other right before or after it. A ratio is this tree's time over the commit's: below 1, this tree is
faster. Writes bench/commits.json, anew after each section.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import yaml  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.children import SETTLE_S, Service, service, tree_gib  # noqa: E402
from bench.serving.figures import Figures, ratios  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.recordings import join_clips, short_clips  # noqa: E402
from bench.serving.setup import (  # noqa: E402
    CLIENTS,
    DATA,
    SHIPPED,
    TEST_SETS,
    Plan,
    Setup,
    required,
    sections_named,
)
from serve.config.progress import progress_bar  # noqa: E402
from serve.model.artifact import MANIFEST  # noqa: E402

STARTS = 7
ROUNDS = 4
LONG_ROUNDS = 3
IDLE_AFTER_S = 1.0
"""Memory is measured this long after the start: a child that was just forked counts its parent's too."""
TRAINING_STEPS = 24
TRAINING_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Trees:
    """The two source trees, and what both are measured with."""

    paths: Mapping[str, Path]
    """The trees by name: this one is "now", the commit's "before"."""
    setup: Setup
    artifact_before: Path
    """The same adapter, as the commit reads it."""

    def both(self, turn: int) -> Sequence[str]:
        """Return the names of both trees, in an order that alternates with `turn`."""
        return list(self.paths) if turn % 2 == 0 else list(self.paths)[::-1]

    def service(self, name: str) -> AbstractContextManager[Service]:
        """Run a tree's service."""
        setup = self.setup
        if name == "before":
            setup = replace(setup, artifact_dir=self.artifact_before)
        return service(setup, tree=self.paths[name])


def measure_start(trees: Trees) -> Figures:
    """Measure starts of the service until /ping is 200, models cached, and its idle memory then."""
    wall_s: dict[str, list[float]] = {"now": [], "before": []}
    processor_s: dict[str, list[float]] = {"now": [], "before": []}
    memory_gib: dict[str, list[float]] = {"now": [], "before": []}
    with progress_bar("starts", 2 * (STARTS + 1), "starts") as advance:
        for turn in range(STARTS + 1):
            for name in trees.both(turn):
                with trees.service(name) as running:
                    time.sleep(IDLE_AFTER_S)
                    idle_gib = round(tree_gib(running.pid), 3)
                advance()
                if turn:  # the first start may build what later ones find in the cache
                    memory_gib[name].append(idle_gib)
                    wall_s[name].append(round(running.ready_s, 3))
                    processor_s[name].append(round(running.ready_cpu_s, 3))
    return {
        "ratio": _ratio(wall_s),
        "processor_time_ratio": _ratio(processor_s),
        "memory_ratio": _ratio(memory_gib),
        "memory_gib": memory_gib,
        "runs_s": wall_s,
        "processor_s": processor_s,
    }


def measure_short(trees: Trees) -> Figures:
    """Send clips of 2 to 8 s one at a time over HTTP."""
    clips = short_clips(trees.setup, 48)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    with _services(trees) as running, progress_bar("short clips", len(clips), "clips") as advance:
        for turn, clip in enumerate([*clips[:2], *clips]):  # two clips warm up
            for name in trees.both(turn):
                seconds[name].append(_timed(lambda name=name, clip=clip: running[name].post(clip)))
            advance()
    timed = {name: taken[2:] for name, taken in seconds.items()}
    return {"ratio": _ratio(timed), "pairs": ratios(timed["now"], timed["before"]), "seconds": timed}


def measure_concurrent(trees: Trees) -> Figures:
    """Send clips of 2 to 8 s from eight clients over HTTP; measure the memory after each round."""
    clips = short_clips(trees.setup, 48)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    memory_gib: dict[str, list[float]] = {"now": [], "before": []}
    with (
        _services(trees) as running,
        ThreadPoolExecutor(CLIENTS) as pool,
        progress_bar("eight clients", 2 * (ROUNDS + 1), "rounds") as advance,
    ):
        for turn in range(ROUNDS + 1):
            for name in trees.both(turn):
                seconds[name].append(_timed(lambda name=name: list(pool.map(running[name].post, clips))))
                memory_gib[name].append(round(tree_gib(running[name].pid), 3))
                advance()
    timed = {name: taken[1:] for name, taken in seconds.items()}  # the first round warms up
    return {
        "ratio": _ratio(timed),
        "memory_ratio": _ratio(memory_gib),
        "memory_gib": memory_gib,
        "clients": CLIENTS,
        "clips": len(clips),
        "seconds": timed,
    }


def measure_long(trees: Trees) -> Figures:
    """Send ten minutes of speech with pauses over HTTP."""
    recording = join_clips(trees.setup, trees.setup.plan.long_s)
    (warm_up,) = short_clips(trees.setup, 1)
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    texts: dict[str, set[str]] = {"now": set(), "before": set()}
    with _services(trees) as running, progress_bar("ten minutes", 2 * LONG_ROUNDS, "answers") as advance:
        for turn in range(LONG_ROUNDS):
            for name in trees.both(turn):
                running[name].post(warm_up)
                seconds[name].append(_timed(lambda name=name: texts[name].add(running[name].post(recording))))
                advance()
    return {
        "ratio": _ratio(seconds),
        "recording_s": round(recording.duration_s, 1),
        "seconds": seconds,
        "same_text": texts["now"] == texts["before"],
    }


def compare_texts(trees: Trees) -> Figures:
    """Have both trees transcribe all clips of the manifests, and list the texts that differ."""
    clips = short_clips(trees.setup, 10**6, longest_s=60.0)
    different: list[Figures] = []
    with _services(trees) as running, progress_bar("texts", len(clips), "clips") as advance:
        for clip in clips:
            now, before = (running[name].post(clip) for name in trees.paths)
            if now != before:
                different.append({"clip": clip.path.stem, "said": clip.text, "now": now, "before": before})
            advance()
    return {"clips": len(clips), "different": len(different), "texts": different}


def measure_training(trees: Trees) -> Figures:
    """Train some steps from the bare base in both trees, on clips of espeak and festival."""
    seconds: dict[str, list[float]] = {"now": [], "before": []}
    with progress_bar("training", 2 * TRAINING_ROUNDS, "runs") as advance:
        for turn in range(TRAINING_ROUNDS):
            for name in trees.both(turn):
                tree = trees.paths[name]
                seconds[name].append(_seconds_of_training(trees.setup, tree, f"{name}-{turn}"))
                advance()
    return {"ratio": _ratio(seconds), "steps": TRAINING_STEPS, "seconds": seconds}


def _seconds_of_training(setup: Setup, tree: Path, name: str) -> float:
    """Train in a tree, and return the time of its steps but for the first eight, by its own metrics."""
    run_dir = setup.scratch / name
    config = {
        "name": name,
        "output_dir": str(run_dir),
        "base_model": "openai/whisper-base",
        "quantization": "none",
        "language": setup.language,
        "train_data": [str(DATA / "train.jsonl")],
        "encoder_context": "dynamic",
        "max_window_s": 14,
        "max_steps": TRAINING_STEPS,
        "batch_s": 48,
        "log_every_steps": 4,
        "evaluate_base": False,
        "tensorboard": False,
    }
    path = setup.scratch / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    environment = setup.child_environment() | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "train/run.py", "--config", str(path)]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    trained_s = {line["step"]: line["trained_s"] for line in lines if "trained_s" in line}
    return round(trained_s[TRAINING_STEPS] - trained_s[8], 2)


def _timed(call: Callable[[], object]) -> float:
    time.sleep(SETTLE_S)
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, 4)


def _ratio(measured: dict[str, list[float]]) -> float:
    return round(statistics.median(measured["now"]) / statistics.median(measured["before"]), 3)


@contextmanager
def _services(trees: Trees) -> Iterator[dict[str, Service]]:
    """Run the services of both trees; only one is asked at a time."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(trees.service(name)) for name in trees.paths}


def _without_known_text(artifact_dir: Path, copy: Path) -> Path:
    """Copy an artifact but for its note of a known text, which an older tree refuses as unknown."""
    shutil.copytree(artifact_dir, copy)
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    manifest.pop("known_text", None)
    write_record(manifest, copy / MANIFEST)
    return copy


@contextmanager
def _checked_out(commit: str) -> Iterator[tuple[Path, str]]:
    """Check a commit out beside this tree while the block runs; yield its directory and its full hash."""
    try:
        full = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError as error:
        raise click.BadParameter(f"there is no commit {commit} here") from error
    with tempfile.TemporaryDirectory(prefix="shrota-commit-") as scratch:
        tree = Path(scratch) / "tree"
        _git("worktree", "add", "--detach", str(tree), full)
        try:
            yield tree, full
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


SECTIONS: dict[str, Callable[[Trees], Figures]] = {
    "start": measure_start,
    "short": measure_short,
    "concurrent": measure_concurrent,
    "long": measure_long,
    "texts": compare_texts,
    "train": measure_training,
}

FILE = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.argument("commit")
@click.option("--only", default="", help=f"Sections, with commas, of {', '.join(SECTIONS)}; all by default.")
@click.option("--manifest", "manifests", type=FILE, multiple=True, default=TEST_SETS, help="Recordings.")
@click.option("--model-dir", type=FILE, default=SHIPPED, help="Artifact to serve.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "commits.json", help="File of the figures.")
def main(
    commit: str,
    only: str,
    manifests: tuple[Path, ...],
    model_dir: Path,
    output: Path,
) -> None:
    """Compare this tree with COMMIT."""
    chosen = sections_named(only, SECTIONS)
    required(manifests)
    n_threads = len(os.sched_getaffinity(0))
    console = Console(width=150)
    with _checked_out(commit) as (tree, full), tempfile.TemporaryDirectory(prefix="shrota-bench-") as scratch:
        setup = Setup(
            plan=Plan(),
            artifact_dir=model_dir.resolve(),
            engine="auto",
            language="mr",
            n_threads=n_threads,
            manifests=manifests,
            scratch=Path(scratch),
        )
        trees = Trees(
            paths={"now": ROOT, "before": tree},
            setup=setup,
            artifact_before=_without_known_text(model_dir, Path(scratch) / "artifact"),
        )
        record: Figures = {**begin_record(n_threads), "now": _git("rev-parse", "HEAD"), "before": full}
        for name in chosen:
            figures = SECTIONS[name](trees)
            record[name] = figures
            write_record(record, output)
            shown = {key: value for key, value in figures.items() if "ratio" in key or key == "different"}
            console.print(f"{name}: {json.dumps(shown)}", highlight=False)
    console.print(f"written to {output}")


if __name__ == "__main__":
    main()
