"""Compare Ray's workers with one process on a corpus of short clips: `shrota batch` against `--local`.

    python bench/batch.py                                  # 2,000 clips, three pairs of runs
    python bench/batch.py --clips 100 --pairs 1            # a look

Both run as people run them, in turns, each into an empty folder, with as many threads in all. "whole" counts
the command from its start to its end; "steady" the clips between the first stored shard and the last, without
the start of Ray and the loading of models. A ratio is Ray's throughput over that of one process. Writes
bench/batch.json, anew after each pair.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import psutil  # noqa: E402
from rich.console import Console  # noqa: E402

from bench.serving.figures import Figures  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from serve.config.progress import progress_bar  # noqa: E402

SAMPLING_S = 0.2
CLIPS = ROOT / "data" / "mr" / "clips"


class ProcessorTime:
    """Adds up the processor time of a process and all below it, those included that end meanwhile."""

    def __init__(self, pid: int) -> None:
        self._of: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(psutil.Process(pid),), daemon=True)
        self._thread.start()

    def finish(self) -> float:
        """Return the seconds, once the process has ended."""
        self._ended.set()
        self._thread.join()
        return round(sum(self._of.values()), 2)

    def _watch(self, top: psutil.Process) -> None:
        while not self._ended.wait(SAMPLING_S):
            try:
                family = [top, *top.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    used = process.cpu_times()
                    self._of[process.pid, process.create_time()] = used.user + used.system
                except psutil.NoSuchProcess:
                    continue


def run_batch(recordings: Path, output: Path, flags: Sequence[str], n_threads: int) -> Figures:
    """Transcribe a folder into an empty one, and return times and texts."""
    command = [
        sys.executable,
        "-m",
        "serve.transcribe.batch",
        "--input",
        str(recordings),
        "--output",
        str(output),
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SHROTA_")},
        **{"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    }
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--n-threads", str(n_threads), *flags],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    processor = ProcessorTime(child.pid)
    _, errors = child.communicate()
    wall_s = time.perf_counter() - started
    if child.returncode:
        raise click.ClickException(errors)
    shards = sorted((output / "results").glob("*.jsonl"), key=lambda shard: shard.stat().st_mtime)
    rows = {shard: [json.loads(line) for line in shard.read_text("utf-8").splitlines()] for shard in shards}
    audio_s = sum(row["duration_s"] for each in rows.values() for row in each)
    later_s = sum(row["duration_s"] for shard in shards[1:] for row in rows[shard])
    between_s = shards[-1].stat().st_mtime - shards[0].stat().st_mtime
    return {
        "wall_s": round(wall_s, 2),
        "processor_s": processor.finish(),
        "times_real_time": round(audio_s / wall_s, 2),
        "steady_times_real_time": round(later_s / between_s, 2) if between_s else None,
        "texts": {row["path"]: row["text"] for each in rows.values() for row in each},
    }


def ratio(runs: dict[str, list[Figures]], key: str) -> float | None:
    """Return the median of Ray's runs over that of the local ones."""
    values = {name: [run[key] for run in each if run[key] is not None] for name, each in runs.items()}
    if not all(values.values()):
        return None
    return round(statistics.median(values["ray"]) / statistics.median(values["local"]), 3)


@click.command(context_settings={"show_default": True})
@click.option("--clips", "n_clips", default=2_000, help="Clips of the corpus.")
@click.option("--pairs", default=3, help="Runs of each kind.")
@click.option("--workers", default=2, help="Ray's workers, and threads of the one process.")
@click.option("--recordings", type=click.Path(path_type=Path), default=CLIPS, help="Folder of FLAC clips.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=ROOT / "bench" / "batch.json", help="Raw figures."
)
def main(n_clips: int, pairs: int, workers: int, recordings: Path, output: Path) -> None:
    """Measure both ways on the same clips."""
    clips = sorted(recordings.glob("*.flac"))[:n_clips]
    if len(clips) < n_clips:
        raise click.ClickException(f"{recordings} holds {len(clips)} clips; `make data` speaks more")
    kinds = {"local": ["--local"], "ray": ["--workers", str(workers)]}
    runs: dict[str, list[Figures]] = {name: [] for name in kinds}
    record = begin_record(workers)
    with tempfile.TemporaryDirectory(prefix="shrota-bench-") as scratch:
        corpus, first = Path(scratch) / "corpus", Path(scratch) / "first"
        for folder, chosen in ((corpus, clips), (first, clips[:1])):
            folder.mkdir()
            for clip in chosen:
                (folder / clip.name).symlink_to(clip)
        run_batch(first, Path(scratch) / "warm-up", kinds["local"], workers)  # converts the model
        texts: list[dict[str, str]] = []
        with progress_bar("corpus", 2 * pairs, "runs") as advance:
            for pair in range(pairs):
                for name in list(kinds)[:: 1 if pair % 2 == 0 else -1]:
                    figures = run_batch(corpus, Path(scratch) / f"{name}-{pair}", kinds[name], workers)
                    texts.append(figures.pop("texts"))
                    runs[name].append(figures)
                    advance()
                whole, steady = ratio(runs, "times_real_time"), ratio(runs, "steady_times_real_time")
                record |= {
                    "clips": n_clips,
                    "ratio_whole": whole,
                    "ratio_steady": steady,
                    "ratio_processor_time": ratio(runs, "processor_s"),
                    "same_texts": all(each == texts[0] for each in texts),
                    "runs": runs,
                }
                write_record(record, output)
    shown = {key: value for key, value in record.items() if key.startswith(("ratio", "same"))}
    Console(width=150).print(json.dumps(shown), highlight=False)


if __name__ == "__main__":
    main()
