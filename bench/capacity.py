"""Check the model of `shrota capacity` against a real service: predicted and measured latency and throughput.

    python bench/capacity.py                       # eleven minutes
    python bench/capacity.py --again               # the model has changed: measure nothing, predict anew
    python bench/capacity.py --clips 6 --seconds 10 --manifest data/mr/test-neural.jsonl   # does it work?

Starts `python -m serve` on the shipped adapter. A machine is not equally fast for minutes, so short rounds
alternate between what the model is fitted to and what it has to predict. To one half of the clips it is
fitted: some are sent alone with pauses, some by two clients, some at random (Poisson) at 45 and at 75 % of
what eight clients got at first. The other half arrives at random at 30, 60 and 85 %, and the model, which is
not touched again, predicts the latencies of the same arrivals. The means of all rounds are compared. Writes
bench/capacity.json, which `shrota capacity --measured` reads.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
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
from serve.config.progress import progress_bar  # noqa: E402
from serve.remote.capacity import traffic  # noqa: E402
from serve.remote.capacity.endpoint import outcome, simulate  # noqa: E402
from serve.remote.capacity.fitting import Alone, Arrivals, Clients, fit_concurrency, fit_prices  # noqa: E402
from serve.remote.capacity.instance import Instance, Request  # noqa: E402
from serve.remote.capacity.options import CapacityOptions  # noqa: E402
from serve.remote.capacity.service_time import ServiceTime, Shape  # noqa: E402

LOADS = (0.3, 0.6, 0.85)
FITTED_LOADS = (0.45, 0.75)
JUDGED = ("p95_s", "throughput_per_s")
CLIENTS = 2
"""Clients that the model is fitted to: few, since many get their answers together, and their next clips fill
batches as random arrivals do not."""
FULL = 8
"""Clients whose rate of answers is called full load."""
ROUNDS = 8
CLIPS_OF_ROUND = 24
"""Clips that the clients send in a round."""
DRAWS = 20
"""Simulations of the same arrivals, in which the machine's speed and the recordings' tokens differ."""
PAUSE_S = 0.3
"""Mean pause before a clip that is sent alone, in seconds; traffic has pauses too."""
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


def work_done(before: Counters, after: Counters) -> dict[str, float]:
    """Return what the engine did between two readings of its counters."""
    return {
        name: value
        for name, value in zip(Counters._fields, np.subtract(after, before).tolist(), strict=True)
        if name != "n_workers"
    }


def send(target: Service, body: bytes) -> int:
    """Post a clip; return the status."""
    return target.client.post("/invocations", content=body).status_code


def send_alone(target: Service, clip: Recording, rng: np.random.Generator) -> Alone:
    """Send a clip while nothing else runs; return what it took."""
    body = clip.path.read_bytes()
    time.sleep(float(rng.exponential(PAUSE_S)))
    before, started = counters(target), time.perf_counter()
    assert send(target, body) == 200
    latency_s = time.perf_counter() - started
    done = work_done(before, counters(target))
    return Alone(
        audio_s=clip.duration_s,
        latency_s=latency_s,
        busy_s=done["busy_s"],
        window_s=done["window_s"],
        n_tokens=round(done["n_tokens"]),
        n_batches=round(done["n_batches"]),
    )


def clients_s(target: Service, clips: Sequence[Recording], n_clients: int) -> float:
    """Send clips, each client its next one after an answer; return the seconds until the last answer."""
    bodies = [clip.path.read_bytes() for clip in clips]
    with ThreadPoolExecutor(n_clients) as pool:
        started = time.perf_counter()
        statuses = list(pool.map(lambda body: send(target, body), bodies))
    assert set(statuses) == {200}, statuses
    return time.perf_counter() - started


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


def divide(clips: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Return clips to fit to and clips to predict, each in an order without meaning."""
    order = np.random.default_rng(0).permutation(len(clips)).tolist()
    return [clips[i] for i in order[::2]], [clips[i] for i in order[1::2]]


def of_round(clips: Sequence[Any], number: int) -> list[Any]:
    """Return the clips that clients send in a round."""
    return [clips[(number * CLIPS_OF_ROUND + i) % len(clips)] for i in range(CLIPS_OF_ROUND)]


def fit(
    measurement: dict[str, Any],
    clips: Sequence[Recording],
    facts: dict[str, Any],
    n_threads: int,
) -> tuple[ServiceTime, Shape]:
    """Fit the model to a measurement.

    Args:
        clips: Those that it was measured with.
        facts: The artifact's manifest.
        n_threads: CPU threads of the service.
    """
    alone = [Alone(**each) for each in measurement["alone"]]
    prices = fit_prices(
        alone, dynamic=facts["encoder_context"] == "dynamic", margin_s=facts["window_margin_s"]
    )
    known = {clip.path: each.recording for clip, each in zip(clips, alone, strict=True)}
    recordings = [each.recording for each in alone]
    clients, arrivals, s_per_token = [], [], []
    for number, found in enumerate(measurement["rounds"]):
        sent = of_round(recordings, number)
        clients.append(Clients(n_clients=CLIENTS, clips=sent, measured_s=found["clients_s"]))
        s_per_token.append(found["clients_s"] / sum(each.n_tokens or 0 for each in sent))
        for rate_per_s, latency_s in zip(measurement["rates_per_s"], found["mean_latency_s"], strict=True):
            came = draw_arrivals(clips, rate_per_s, measurement["seconds"], number)
            timed = [(when_s, known[clip.path]) for when_s, clip in came]
            arrivals.append(Arrivals(rate_per_s=rate_per_s, arrivals=timed, measured_s=latency_s))
    spread = float(np.std(np.log(s_per_token), ddof=1))
    shape = Shape(n_workers=measurement["n_workers"], cores=n_threads)
    return fit_concurrency(dataclasses.replace(prices, speed_spread=spread), shape, clients, arrivals)


def draw_arrivals(
    clips: Sequence[Recording], rate_per_s: float, seconds: float, number: int
) -> list[tuple[float, Recording]]:
    """Return the Poisson arrivals of a round, the same ones for the same rate: (seconds, clip)."""
    rng = np.random.default_rng([round(1_000 * rate_per_s), number])
    order = itertools.cycle(rng.permutation(len(clips)))
    count = max(LEAST_ARRIVALS, round(seconds * rate_per_s))
    times_s = np.cumsum(rng.exponential(1 / rate_per_s, count)).tolist()
    return [(when_s, clips[next(order)]) for when_s in times_s]


def predict(
    model: tuple[ServiceTime, Shape], arrivals: Sequence[tuple[float, Recording]]
) -> dict[str, float]:
    """Return what the model says of arrivals: the means over what the machine's speed may be meanwhile."""
    rules = CapacityOptions().rules
    outcomes = [
        simulate(
            lambda env, seed=seed: Instance(env, *model, rules, seed),  # type: ignore[misc]
            1,
            [(when_s, traffic.Recording(clip.duration_s)) for when_s, clip in arrivals],
            until_s=arrivals[-1][0] + 1e-6,
        )
        for seed in range(DRAWS)
    ]
    found = [dataclasses.asdict(each) for each in outcomes]
    return {name: mean_of(found, name) for name in found[0]}


def send_all(target: Service, arrivals: Sequence[tuple[float, Recording]]) -> dict[str, float]:
    """Send arrivals to the service, and return what became of them."""
    requests = send_at(target, arrivals)
    mean_s = statistics.fmean(each.latency_s for each in requests if not each.is_refused)
    found = outcome(requests, 0.0, arrivals[-1][0] + 1e-6, 1.0)
    return {**dataclasses.asdict(found), "mean_s": mean_s}


def compare(
    model: tuple[ServiceTime, Shape], clips: Sequence[Recording], seconds: float, found: dict[str, Any]
) -> dict[str, Any]:
    """Return a load's measured figures beside the predicted ones, and how far their means differ."""
    predicted = [
        predict(model, draw_arrivals(clips, found["rate_per_s"], seconds, number))
        for number in range(len(found["measured"]))
    ]
    off = {
        name: mean_of(predicted, name) / mean_of(found["measured"], name) - 1 for name in ("p50_s", *JUDGED)
    }
    return {**found, "predicted": predicted, "off": off}


def mean_of(rounds: Sequence[dict[str, float]], name: str) -> float:
    """Return the mean of a figure over the rounds."""
    return statistics.fmean(each[name] for each in rounds)


@click.command(context_settings={"show_default": True})
@click.option("--manifest", type=FILE, multiple=True, default=[DATA / "test-neural.jsonl"])
@click.option("--model-dir", type=FILE, default=SHIPPED)
@click.option("--engine", default="ctranslate2")
@click.option("--threads", default=2, help="CPU threads of the service.")
@click.option("--clips", default=75, help="Clips to fit the model to; as many others are predicted.")
@click.option("--seconds", default=12.0, help="Length of the traffic at each load in a round.")
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
        fitted, others = divide(chosen)
        seconds = record["measurement"]["seconds"]  # with --again, those of the measurement
        model = fit(record["measurement"], fitted, facts, threads)
        compared = [compare(model, others, seconds, found) for found in record["compared"]]
    record |= {
        "service_time": dataclasses.asdict(model[0]),
        "shape": dataclasses.asdict(model[1]),
        "compared": compared,
        "within_wanted": all(abs(each["off"][name]) <= WANTED for each in compared for name in JUDGED),
    }
    write_record(record, out)
    show(compared)


def measured_figures(setup: Setup, chosen: Sequence[Recording], seconds: float) -> dict[str, Any]:
    """Run the service: in each round half of the clips to fit the model to, then the others at each load."""
    rng = np.random.default_rng(len(chosen))
    fitted, others = divide(chosen)
    alone: dict[int, Alone] = {}
    rounds: list[dict[str, Any]] = []
    measured: dict[float, list[dict[str, float]]] = {load: [] for load in LOADS}
    with service(setup) as target, progress_bar("measuring", ROUNDS, "rounds") as advance:
        n_workers = int(counters(target).n_workers)
        clients_s(target, chosen, FULL)  # to warm up
        full_per_s = len(chosen) / clients_s(target, chosen, FULL)
        rates_per_s = [load * full_per_s for load in FITTED_LOADS]
        for number in range(ROUNDS):
            for index in range(number, len(fitted), ROUNDS):
                alone[index] = send_alone(target, fitted[index], rng)
            elapsed_s = clients_s(target, of_round(fitted, number), CLIENTS)
            came = [send_all(target, draw_arrivals(fitted, each, seconds, number)) for each in rates_per_s]
            rounds.append({"clients_s": elapsed_s, "mean_latency_s": [each["mean_s"] for each in came]})
            for load, outcomes in measured.items():
                outcomes.append(send_all(target, draw_arrivals(others, load * full_per_s, seconds, number)))
            advance()
    return {
        "measurement": {
            "alone": [dataclasses.asdict(alone[index]) for index in range(len(fitted))],
            "rounds": rounds,
            "rates_per_s": rates_per_s,
            "n_workers": n_workers,
            "seconds": seconds,
        },
        "compared": [
            {"load": load, "rate_per_s": load * full_per_s, "measured": outcomes}
            for load, outcomes in measured.items()
        ],
    }


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
            cells += [f"{mean_of(each[side], name):.2f}" for side in ("predicted", "measured")]
            cells.append(f"{each['off'][name]:+.0%}")
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
