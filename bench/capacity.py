"""Check the model of `shrota capacity` against a real service: predicted and measured latency and throughput.

    python bench/capacity.py                       # about five minutes
    python bench/capacity.py --clips 6 --seconds 10 --manifest data/mr/test-neural.jsonl   # does it work?

Starts `python -m serve` on the shipped adapter. Measures with one set of clips: each sent alone, then by
two, four and eight clients at once; the model is fitted to that. Then other clips arrive at random (Poisson)
at 30, 60 and 85 % of what eight clients got, and the model, which is not touched again, predicts the
latencies of the same arrivals. Writes bench/capacity.json, which `shrota capacity --measured` reads.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.serving.children import Service, service  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.recordings import Recording, short_clips  # noqa: E402
from bench.serving.setup import DATA, SHIPPED, Setup, required  # noqa: E402
from serve.remote.capacity import traffic  # noqa: E402
from serve.remote.capacity.endpoint import outcome, simulate  # noqa: E402
from serve.remote.capacity.fitting import Alone, fit_concurrency, fit_prices  # noqa: E402
from serve.remote.capacity.instance import Instance, Request  # noqa: E402
from serve.remote.capacity.options import CapacityOptions  # noqa: E402
from serve.remote.capacity.service_time import ServiceTime, Shape  # noqa: E402

LOADS = (0.3, 0.6, 0.85)
JUDGED = ("p95_s", "throughput_per_s")
CLIENTS = (2, 4, 8)
LEAST_ARRIVALS = 20
LONGEST_S = 14.0
WANTED = 0.15
"""Largest difference of predicted and measured figures that passes, relative to the measured one."""

FILE = click.Path(path_type=Path)


class Counters(NamedTuple):
    """Counters of /metrics."""

    n_batches: float
    window_s: float
    n_tokens: float
    busy_s: float
    n_workers: float


def counters(target: Service) -> Counters:
    """Read the engine's counters."""
    page = target.client.get("/metrics").raise_for_status().text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    names = ("batches_total", "window_seconds_total", "tokens_total", "engine_busy_seconds_total")
    return Counters(*(values[f"shrota_{name}"] for name in (*names, "engine_workers")))


def send(target: Service, body: bytes) -> int:
    """Post a clip; return the status."""
    return target.client.post("/invocations", content=body).status_code


def send_alone(target: Service, clip: Recording) -> Alone:
    """Send a clip while nothing else runs; return what it took."""
    body, before = clip.path.read_bytes(), counters(target)
    started = time.perf_counter()
    assert send(target, body) == 200
    latency_s = time.perf_counter() - started
    n_batches, window_s, n_tokens, busy_s, _ = np.subtract(counters(target), before).tolist()
    return Alone(
        audio_s=clip.duration_s,
        latency_s=latency_s,
        busy_s=busy_s,
        window_s=window_s,
        n_tokens=round(n_tokens),
        n_batches=round(n_batches),
    )


def closed_loop_per_s(target: Service, clips: Sequence[Recording], n_clients: int) -> float:
    """Send clips, each client its next one after an answer; return how many were answered in a second."""
    bodies = [clip.path.read_bytes() for clip in clips]
    with ThreadPoolExecutor(n_clients) as pool:
        started = time.perf_counter()
        statuses = list(pool.map(lambda body: send(target, body), bodies))
    assert set(statuses) == {200}, statuses
    return len(clips) / (time.perf_counter() - started)


def send_at(target: Service, arrivals: Sequence[tuple[float, Recording]]) -> list[Request]:
    """Send clips at their times, whatever has been answered by then; return what became of each."""
    requests: list[Request] = []
    started = time.perf_counter()

    def one(request: Request, body: bytes) -> None:
        request.is_refused = send(target, body) == 429
        if not request.is_refused:
            request.answered_s = time.perf_counter() - started

    threads = []
    for when_s, clip in arrivals:
        body = clip.path.read_bytes()
        time.sleep(max(0.0, started + when_s - time.perf_counter()))
        requests.append(Request(traffic.Recording(clip.duration_s), when_s))
        threads.append(threading.Thread(target=one, args=(requests[-1], body)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return requests


def calibrate(target: Service, clips: Sequence[Recording], n_threads: int, manifest: dict[str, Any]) -> Any:
    """Measure the service; return (measurement, service time, shape)."""
    alone = [send_alone(target, clip) for clip in clips]
    sent = [clip for _, clip in zip(range(2 * len(clips)), itertools.cycle(clips), strict=False)]
    per_s = {n: closed_loop_per_s(target, sent, n) for n in CLIENTS}
    dynamic = manifest["encoder_context"] == "dynamic"
    prices = fit_prices(alone, dynamic=dynamic, margin_s=manifest["window_margin_s"])
    shape = Shape(n_workers=int(counters(target).n_workers), cores=n_threads)
    known = [each.recording for _, each in zip(sent, itertools.cycle(alone), strict=False)]
    fitted = fit_concurrency(prices, shape, known, per_s)
    measurement = {"alone": [dataclasses.asdict(each) for each in alone], "clients_per_s": per_s}
    return measurement, *fitted


def compare(
    target: Service,
    clips: Sequence[Recording],
    rate_per_s: float,
    seconds: float,
    model: tuple[ServiceTime, Shape],
) -> dict[str, Any]:
    """Send Poisson traffic, predict the same arrivals, and return both outcomes and their differences."""
    rng = np.random.default_rng(round(1_000 * rate_per_s))
    order = itertools.cycle(rng.permutation(len(clips)))
    times_s = np.cumsum(
        rng.exponential(1 / rate_per_s, max(LEAST_ARRIVALS, round(seconds * rate_per_s)))
    ).tolist()
    arrivals = [(when_s, clips[next(order)]) for when_s in times_s]
    until_s = times_s[-1]
    rules = CapacityOptions().rules
    predicted = simulate(
        lambda env: Instance(env, *model, rules),
        1,
        [(when_s, traffic.Recording(clip.duration_s)) for when_s, clip in arrivals],
        until_s=until_s + 1e-6,
    )
    measured = outcome(send_at(target, arrivals), 0.0, until_s + 1e-6, 1.0)
    found = {"predicted": dataclasses.asdict(predicted), "measured": dataclasses.asdict(measured)}
    off = {name: found["predicted"][name] / found["measured"][name] - 1 for name in ("p50_s", *JUDGED)}
    return {"rate_per_s": rate_per_s, **found, "off": off}


@click.command(context_settings={"show_default": True})
@click.option("--manifest", type=FILE, multiple=True, default=[DATA / "test-neural.jsonl"])
@click.option("--model-dir", type=FILE, default=SHIPPED)
@click.option("--engine", default="ctranslate2")
@click.option("--threads", default=2, help="CPU threads of the service.")
@click.option("--clips", default=24, help="Clips to measure with; as many others arrive at random.")
@click.option("--seconds", default=60.0, help="Length of the traffic at each load.")
@click.option("--out", type=FILE, default=ROOT / "bench" / "capacity.json")
def main(
    manifest: tuple[Path, ...],
    model_dir: Path,
    engine: str,
    threads: int,
    clips: int,
    seconds: float,
    out: Path,
) -> None:
    """Measure, fit, predict and compare; write bench/capacity.json."""
    required(manifest)
    record = begin_record(threads)
    facts = json.loads((model_dir / "manifest.json").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        setup = Setup(
            artifact_dir=model_dir,
            engine=engine,
            language=facts["language"],
            n_threads=threads,
            manifests=manifest,
            scratch=Path(scratch),
        )
        chosen = short_clips(setup, 2 * clips, LONGEST_S)
        with service(setup) as target:
            for clip in chosen[:2]:
                send(target, clip.path.read_bytes())
            measurement, *model = calibrate(target, chosen[::2], threads, facts)
            sustained = measurement["clients_per_s"][max(CLIENTS)]
            compared = [
                {"load": load, **compare(target, chosen[1::2], load * sustained, seconds, tuple(model))}
                for load in LOADS
            ]
    record |= {
        "service_time": dataclasses.asdict(model[0]),
        "shape": dataclasses.asdict(model[1]),
        "measurement": measurement,
        "compared": compared,
        "within_wanted": all(
            abs(off) <= WANTED for each in compared for name, off in each["off"].items() if name != "p50_s"
        ),
    }
    write_record(record, out)
    show(compared)


def show(compared: Sequence[dict[str, Any]]) -> None:
    """Print predicted and measured figures side by side."""
    table = Table(box=box.SIMPLE)
    for heading in (
        "load",
        "req/s",
        "p95 predicted",
        "measured",
        "off",
        "answered/s predicted",
        "measured",
        "off",
    ):
        table.add_column(heading, justify="right")
    for each in compared:
        cells = [f"{each['load']:.0%}", f"{each['rate_per_s']:.2f}"]
        for name in JUDGED:
            cells += [f"{each[side][name]:.2f}" for side in ("predicted", "measured")]
            cells.append(f"{each['off'][name]:+.0%}")
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
