"""Check the model of `shrota capacity` against a real service: predicted and measured latency and throughput.

    python bench/capacity.py                       # about five minutes
    python bench/capacity.py --again               # the model has changed: measure nothing, predict anew
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


def measure(target: Service, clips: Sequence[Recording]) -> dict[str, Any]:
    """Send clips alone, then by several clients at once; return what that took."""
    alone = [send_alone(target, clip) for clip in clips]
    per_s = {str(n): closed_loop_per_s(target, repeated(clips), n) for n in CLIENTS}
    n_workers = int(counters(target).n_workers)
    return {
        "alone": [dataclasses.asdict(each) for each in alone],
        "clients_per_s": per_s,
        "n_workers": n_workers,
    }


def repeated(clips: Sequence[Any]) -> list[Any]:
    """Return what the clients send."""
    return [*clips, *clips]


def fit(measurement: dict[str, Any], n_threads: int, facts: dict[str, Any]) -> tuple[ServiceTime, Shape]:
    """Fit the model to a measurement.

    Args:
        n_threads: CPU threads of the service.
        facts: The artifact's manifest.
    """
    alone = [Alone(**each) for each in measurement["alone"]]
    prices = fit_prices(
        alone, dynamic=facts["encoder_context"] == "dynamic", margin_s=facts["window_margin_s"]
    )
    shape = Shape(n_workers=measurement["n_workers"], cores=n_threads)
    per_s = {int(n): value for n, value in measurement["clients_per_s"].items()}
    return fit_concurrency(prices, shape, repeated([each.recording for each in alone]), per_s)


def draw_arrivals(
    clips: Sequence[Recording], rate_per_s: float, seconds: float
) -> list[tuple[float, Recording]]:
    """Return Poisson arrivals, the same ones for the same rate: (seconds, clip)."""
    rng = np.random.default_rng(round(1_000 * rate_per_s))
    order = itertools.cycle(rng.permutation(len(clips)))
    count = max(LEAST_ARRIVALS, round(seconds * rate_per_s))
    times_s = np.cumsum(rng.exponential(1 / rate_per_s, count)).tolist()
    return [(when_s, clips[next(order)]) for when_s in times_s]


def predict(
    model: tuple[ServiceTime, Shape], arrivals: Sequence[tuple[float, Recording]]
) -> dict[str, float]:
    """Return what the model says of arrivals."""
    rules = CapacityOptions().rules
    found = simulate(
        lambda env: Instance(env, *model, rules),
        1,
        [(when_s, traffic.Recording(clip.duration_s)) for when_s, clip in arrivals],
        until_s=arrivals[-1][0] + 1e-6,
    )
    return dataclasses.asdict(found)


def send_all(target: Service, arrivals: Sequence[tuple[float, Recording]]) -> dict[str, float]:
    """Send arrivals to the service, and return what became of them."""
    return dataclasses.asdict(outcome(send_at(target, arrivals), 0.0, arrivals[-1][0] + 1e-6, 1.0))


def compare(
    model: tuple[ServiceTime, Shape], clips: Sequence[Recording], seconds: float, found: dict[str, Any]
) -> dict[str, Any]:
    """Return a load's measured figures beside the predicted ones, and their differences."""
    predicted = predict(model, draw_arrivals(clips, found["rate_per_s"], seconds))
    off = {name: predicted[name] / found["measured"][name] - 1 for name in ("p50_s", *JUDGED)}
    return {**found, "predicted": predicted, "off": off}


@click.command(context_settings={"show_default": True})
@click.option("--manifest", type=FILE, multiple=True, default=[DATA / "test-neural.jsonl"])
@click.option("--model-dir", type=FILE, default=SHIPPED)
@click.option("--engine", default="ctranslate2")
@click.option("--threads", default=2, help="CPU threads of the service.")
@click.option("--clips", default=24, help="Clips to measure with; as many others arrive at random.")
@click.option("--seconds", default=60.0, help="Length of the traffic at each load.")
@click.option("--out", type=FILE, default=ROOT / "bench" / "capacity.json")
@click.option("--again", is_flag=True, help="Measure nothing: fit and predict anew what --out holds.")
def main(
    manifest: tuple[Path, ...],
    model_dir: Path,
    engine: str,
    threads: int,
    clips: int,
    seconds: float,
    out: Path,
    again: bool,
) -> None:
    """Measure, fit, predict and compare; write bench/capacity.json."""
    required(manifest)
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
        record = json.loads(out.read_bytes()) if again else begin_record(threads)
        if not again:
            record |= measured_figures(setup, chosen, seconds)
        model = fit(record["measurement"], threads, facts)
        compared = [compare(model, chosen[1::2], seconds, found) for found in record["compared"]]
    record |= {
        "service_time": dataclasses.asdict(model[0]),
        "shape": dataclasses.asdict(model[1]),
        "compared": compared,
        "within_wanted": all(abs(each["off"][name]) <= WANTED for each in compared for name in JUDGED),
    }
    write_record(record, out)
    show(compared)


def measured_figures(setup: Setup, chosen: Sequence[Recording], seconds: float) -> dict[str, Any]:
    """Run the service: half of the clips to fit the model to, then the others at each load."""
    with service(setup) as target:
        for clip in chosen[:2]:
            send(target, clip.path.read_bytes())
        measurement = measure(target, chosen[::2])
        sustained_per_s = measurement["clients_per_s"][str(max(CLIENTS))]
        compared = []
        for load in LOADS:
            rate_per_s = load * sustained_per_s
            measured = send_all(target, draw_arrivals(chosen[1::2], rate_per_s, seconds))
            compared.append({"load": load, "rate_per_s": rate_per_s, "measured": measured})
    return {"measurement": measurement, "compared": compared}


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
