"""What the service does with three times the load that it can bear, beside slow and idle connections.

Phases, each by locust on loopback. Eight clients at once, to a service without a bound on waits: their
throughput is what it can bear. Then, to one with the bound: one client alone; eight at once; three times the
bearable rate, beside connections that send a body slowly and others that say nothing; and eight at once
again. Clients that are refused wait as they are told, except under overload. Writes bench/load.json.

    python bench/load.py
    python bench/load.py --max-wait-s 10 --output runs/load.json
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.serving.children import Service, service  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.recordings import short_clips  # noqa: E402
from bench.serving.setup import CLIENTS, DATA, SHIPPED, Setup, required  # noqa: E402

FILE = click.Path(path_type=Path)
OVERLOAD = 3.0
USER_PERIOD_S = 5.0
"""Under overload each user sends once in this time, so that answers of less than it do not slow the load."""
SLOW_BYTES_PER_S = 400
"""A body that is just fast enough not to be refused."""
N_CLIPS = 40
SPAN_S, FULL = 5.0, 0.95
"""Throughput is full again where it is so much of the one before, within such a span of seconds."""

Answers = list[tuple[float, float, int]]
"""When each request was sent, in seconds of its phase; how long its answer took; its status."""


@click.command(context_settings={"show_default": True})
@click.option("--model-dir", type=FILE, default=SHIPPED, help="Artifact that is served.")
@click.option(
    "--manifest", type=FILE, default=DATA / "test-everyday.jsonl", help="Where clips are taken from."
)
@click.option(
    "--seconds", default=120.0, help="Length of the overload; each other phase takes a quarter of it."
)
@click.option("--slow", default=16, help="Slow connections beside the overload.")
@click.option("--idle", default=100, help="Silent connections beside the overload.")
@click.option("--max-wait-s", default=0.1, help="The service's bound on a request's predicted wait.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "load.json", help="File of the figures.")
def main(model_dir: Path, manifest: Path, output: Path, **amounts: Any) -> None:
    """Measure latency, refusals and recovery under three times the load that the service can bear."""
    required([manifest])
    record = {**begin_record(os.cpu_count() or 1), **amounts}
    with tempfile.TemporaryDirectory(prefix="load-") as scratch:
        setup = Setup(artifact_dir=model_dir, manifests=(manifest,), scratch=Path(scratch))
        answers, record["beside"] = measure(setup, **amounts)
    record["figures"] = figures_of(answers, amounts["seconds"])
    record["answers"] = answers
    write_record(record, output)
    Console(width=120).print(table_of(record["figures"]))


def measure(
    setup: Setup, seconds: float, slow: int, idle: int, max_wait_s: float
) -> tuple[dict[str, Answers], dict[str, int]]:
    """Return the answers of each phase, and how often the connections beside the overload were opened."""
    clips = [str(clip.path) for clip in short_clips(setup, N_CLIPS)]
    quarter_s = seconds / 4
    answers: dict[str, Answers] = {}

    def phase(running: Service, name: str, n_users: int, seconds: float, rate: float = 0.0) -> None:
        click.echo(f"{name}: {n_users} users for {seconds:.0f} s", err=True)
        address = str(running.client.base_url).rstrip("/")
        wanted = {"address": address, "clips": clips, "n_users": n_users, "seconds": seconds}
        answers[name] = _run({**wanted, "rate_per_user": rate / n_users})

    with service(setup) as unbounded:
        phase(unbounded, "warm-up", 2, 5.0)
        phase(unbounded, "sustainable", CLIENTS, quarter_s)
    rate = OVERLOAD * throughput(answers["sustainable"], quarter_s)
    with service(setup, "--max-wait-s", str(max_wait_s)) as running:
        phase(running, "warm-up", 2, 5.0)
        phase(running, "alone", 1, quarter_s)
        phase(running, "before", CLIENTS, quarter_s)
        with beside(str(running.client.base_url).rstrip("/"), slow, idle) as opened:
            phase(running, "overload", math.ceil(rate * USER_PERIOD_S), seconds, rate)
        phase(running, "after", CLIENTS, quarter_s)
    return answers, dict(opened)


def _run(phase: dict[str, Any]) -> Answers:
    command = [sys.executable, "-m", "bench.serving.load_phase"]
    asked = json.dumps(phase)
    done = subprocess.run(command, input=asked, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [(begin, taken, int(status)) for begin, taken, status in json.loads(done.stdout)]


def throughput(answers: Answers, seconds: float, begin_s: float = 0.0) -> float:
    """Return the transcripts that came within a span, per second."""
    ends = [begin + taken for begin, taken, status in answers if status == 200]
    return sum(begin_s <= end < begin_s + seconds for end in ends) / seconds


def figures_of(answers: dict[str, Answers], seconds: float) -> dict[str, Any]:
    """Return latencies in seconds, rates in requests per second, and the statuses under overload."""
    alone, overload, after = answers["alone"], answers["overload"], answers["after"]
    accepted = [taken for _, taken, status in overload if status == 200]
    refused = [taken for _, taken, status in overload if status == 429]
    rate = throughput(answers["sustainable"], seconds / 4)
    before_per_s = throughput(answers["before"], seconds / 4)
    starts = np.arange(0.0, seconds / 4 - SPAN_S, 0.5)
    back = (start for start in starts if throughput(after, SPAN_S, float(start)) >= FULL * before_per_s)
    back_s = next(back, None)
    unloaded = _p95([taken for _, taken, status in alone if status == 200])
    return {
        "unloaded_p95_s": unloaded,
        "sustainable_per_s": round(rate, 2),
        "sent_per_s": round(len(overload) / seconds, 2),
        "accepted_per_s": round(throughput(overload, seconds), 2),
        "accepted_p95_s": _p95(accepted),
        "accepted_p95_over_unloaded": round(_p95(accepted) / unloaded, 2),
        "refused_p50_s": round(float(np.median(refused)), 4) if refused else None,
        "refused_p95_s": _p95(refused) if refused else None,
        "statuses": {str(status): count for status, count in Counter(row[2] for row in overload).items()},
        "before_per_s": round(before_per_s, 2),
        "after_per_s": round(throughput(after, seconds / 4), 2),
        "full_throughput_after_s": None if back_s is None else float(back_s),
    }


def _p95(seconds: Sequence[float]) -> float:
    return round(float(np.percentile(seconds, 95)), 4)


@contextmanager
def beside(address: str, n_slow: int, n_idle: int) -> Iterator[Counter[str]]:
    """Keep slow and silent connections open while the block runs; yields how often each was opened."""
    opened: Counter[str] = Counter()
    host, port = address.removeprefix("http://").split(":")
    loop = asyncio.new_event_loop()

    async def keep(kind: str) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.5)
                continue
            opened[kind] += 1
            try:
                await (_send_slowly(reader, writer) if kind == "slow" else reader.read())
            except OSError:
                await asyncio.sleep(0.1)
            finally:
                writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(keep(kind) for kind in ["slow"] * n_slow + ["idle"] * n_idle))

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    task = asyncio.run_coroutine_threadsafe(all_of_them(), loop)
    try:
        yield opened
    finally:
        task.cancel()
        asyncio.run_coroutine_threadsafe(_ended(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _ended() -> None:
    """Wait until all other tasks of this loop have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a body of a megabyte, some hundred bytes a second, until the service has enough of it."""
    head = (
        "POST /invocations HTTP/1.1",
        "Host: localhost",
        "Content-Type: audio/wav",
        "Content-Length: 1000000",
    )
    writer.write("\r\n".join([*head, "", ""]).encode())
    answer = asyncio.ensure_future(reader.read())
    try:
        while True:
            writer.write(bytes(SLOW_BYTES_PER_S))
            await writer.drain()
            done, _ = await asyncio.wait([answer], timeout=1.0)
            if done:
                return
    finally:
        answer.cancel()


def table_of(figures: dict[str, Any]) -> Table:
    """Return the figures as a table."""
    table = Table("figure", "value", title="Three times the load that the service can bear")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), str(value))
    return table


if __name__ == "__main__":
    main()
