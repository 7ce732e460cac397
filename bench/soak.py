"""Whether the service's memory grows with the number of requests: a thousand from eight clients.

Memory of the service and its children is sampled after a warm-up. Writes bench/soak.json, with the slope by
least squares and its 95 % interval: one that holds zero is none that can be told from zero.

    python bench/soak.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402
from scipy.stats import linregress, t  # noqa: E402

from bench.serving.children import service, tree_gib  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.recordings import short_clips  # noqa: E402
from bench.serving.setup import CLIENTS, DATA, SHIPPED, Setup, required  # noqa: E402
from serve.config.progress import progress_bar  # noqa: E402

FILE = click.Path(path_type=Path)
N_CLIPS = 40
SAMPLES_EVERY = 10
"""Requests between two samples of memory."""


@click.command(context_settings={"show_default": True})
@click.option("--model-dir", type=FILE, default=SHIPPED, help="Artifact.")
@click.option(
    "--manifest", type=FILE, default=DATA / "test-everyday.jsonl", help="Where clips are taken from."
)
@click.option("--requests", default=1_000, help="Requests that are counted.")
@click.option("--warm-up", default=300, help="Requests before them.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "soak.json", help="File of the figures.")
def main(model_dir: Path, manifest: Path, requests: int, warm_up: int, output: Path) -> None:
    """Send requests from eight clients, and tell how memory and answers went."""
    required([manifest])
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        setup = Setup(artifact_dir=model_dir, manifests=(manifest,), scratch=Path(scratch))
        statuses, samples = send(setup, requests, warm_up)
    figures = slope_of(samples)
    figures |= {"statuses": {str(status): count for status, count in statuses.items()}}
    write_record({**begin_record(os.cpu_count() or 1), "figures": figures, "memory_mib": samples}, output)
    click.echo("\n".join(f"{name}: {value}" for name, value in figures.items()))


def send(setup: Setup, n_requests: int, n_warm_up: int) -> tuple[Counter[int], list[tuple[int, float]]]:
    """Return how often each status came, and (requests so far, MiB of the service and its children)."""
    bodies = [clip.path.read_bytes() for clip in short_clips(setup, N_CLIPS)]
    statuses: Counter[int] = Counter()
    samples: list[tuple[int, float]] = []
    lock = threading.Lock()
    with service(setup) as running, progress_bar("soak", n_warm_up + n_requests, "requests") as advance:

        def ask(number: int) -> None:
            status = running.client.post("/invocations", content=bodies[number % len(bodies)]).status_code
            with lock:
                advance(1)
                if number < n_warm_up:
                    return
                statuses[status] += 1
                if number % SAMPLES_EVERY == 0:
                    samples.append((sum(statuses.values()), round(tree_gib(running.pid) * 1024, 2)))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, range(n_warm_up + n_requests)))
        time.sleep(1.0)
    return statuses, samples


def slope_of(samples: list[tuple[int, float]]) -> dict[str, Any]:
    """Return the growth in KiB for each request, with its 95 % interval.

    Neighbouring samples are alike, so the interval is that of means of ten blocks, which hardly are.
    """
    blocks = np.array_split(np.asarray(samples, float), 10)
    at, memory = np.array([block.mean(axis=0) for block in blocks]).T
    line = linregress(at, memory)
    margin = float(t.ppf(0.975, len(at) - 2) * line.stderr)
    low, high = (float(1024 * (line.slope + sign * margin)) for sign in (-1, 1))
    return {
        "kib_per_request": round(1024 * float(line.slope), 2),
        "kib_per_request_95": [round(low, 2), round(high, 2)],
        "grown_mib": round(float(memory[-1] - memory[0]), 1),
        "holds_zero": low <= 0 <= high,
    }


if __name__ == "__main__":
    main()
