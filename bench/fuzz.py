"""Send thousands of mutated inputs through every door of a real service, and look for what should never be.

A fault is a status 5xx (but 503 with Retry-After), an answer that shows the program's insides, a broken
connection, a service that ended, a `/ping` that fails, a traceback in the service's log, or a file left
behind. Writes bench/fuzz.json; inputs that failed are appended to --failures, one JSON line each.

Before memory is measured, each door gets its seeds as they are, and some mutations of them: what the first
honest request of each kind takes stays, such as the base model, by which languages are detected.

    make fuzz
    python bench/fuzz.py --inputs 500 --seed 7
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import httpx  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.fuzzing.doors import (  # noqa: E402
    ADAPTERS,
    FAULT,
    MODELS_ROUTE,
    Door,
    artifact_door,
    as_line,
    head_door,
    honest,
    http_doors,
    live_door,
    training_door,
)
from bench.fuzzing.seeds import recordings  # noqa: E402
from bench.serving.children import Service, service, tree_gib  # noqa: E402
from bench.serving.machine import begin_record, write_record  # noqa: E402
from bench.serving.setup import SHIPPED, Setup  # noqa: E402
from serve.config.progress import progress_bar  # noqa: E402
from serve.model.artifact import load_manifest  # noqa: E402

FILE = click.Path(path_type=Path)
SHARES = {
    "recordings": 0.35,
    "forms": 0.15,
    "JSON": 0.15,
    "heads": 0.15,
    "live": 0.08,
    "adapters": 0.02,
    "training": 0.08,
    "models": 0.02,
}
"""Door -> its share of the inputs."""
MODELS = "models"
"""The door of a multi-model service, which is another one."""
AT_ONCE = 4
SECONDS = 0.25
"""Length of the speech in seeds: what is still read after its mutation costs the engine little."""
WARM_UP = 50
"""Inputs through each door before memory is measured."""
SETTLE_S = 2.0


@dataclass
class Found:
    """What one door answered."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mib: float = 0.0


@click.command(context_settings={"show_default": True})
@click.option("--model-dir", type=FILE, default=SHIPPED, help="Artifact.")
@click.option("--inputs", default=20_000, help="Inputs over all doors.")
@click.option("--seed", default=0, help="Fixes the mutations.")
@click.option("--only", default="", help="Some of the doors, with commas between.")
@click.option("--strangers", type=FILE, help="Directory of odd recordings that are mutated too.")
@click.option(
    "--clip", type=FILE, default=ROOT / "tests" / "data" / "sample-mr.flac", help="Speech of the seeds."
)
@click.option("--failures", type=FILE, default=Path("runs/fuzz.jsonl"), help="File that faults are added to.")
@click.option("--output", type=FILE, default=ROOT / "bench" / "fuzz.json", help="File of the figures.")
def main(inputs: int, seed: int, only: str, output: Path, failures: Path, **where: Any) -> None:
    """Fuzz a service on loopback; ends with status 1 if there was a fault."""
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(SHARES)
    if unknown := set(wanted) - set(SHARES):
        raise click.BadParameter(f"--only knows no door '{min(unknown)}'")
    found = fuzz({name: round(inputs * SHARES[name]) for name in wanted}, seed, **where)
    record = begin_record(os.cpu_count() or 1)
    record |= {"inputs": sum(sum(each.outcomes.values()) for each in found.values()), "seed": seed}
    record["doors"] = {name: {**vars(each), "outcomes": dict(each.outcomes)} for name, each in found.items()}
    write_record(record, output)
    Console(width=140).print(table_of(found))
    faults = [line for each in found.values() for line in each.faults]
    if faults:
        failures.parent.mkdir(parents=True, exist_ok=True)
        with failures.open("a") as file:
            file.writelines(f"{line}\n" for line in faults)
        raise SystemExit(f"{len(faults)} faults, which {failures} holds")


def fuzz(
    counts: dict[str, int], seed: int, model_dir: Path, clip: Path, strangers: Path | None
) -> dict[str, Found]:
    """Send so many inputs through each door of a new service."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        scratch = Path(name)
        inner = scratch / "tmp"
        inner.mkdir()
        setup = Setup(artifact_dir=model_dir, scratch=scratch)
        seeds = recordings(clip, SECONDS, strangers)
        os.environ["TMPDIR"] = str(inner)
        before = _files_of(ROOT)
        try:
            found = {}
            for is_multi in (False, True):
                some = {name: count for name, count in counts.items() if (name == MODELS) == is_multi}
                base = load_manifest(model_dir).base_model.name
                options = ["--adapter-roots", f"{scratch}:{model_dir.parent}"]
                options += ["--multi-model", "true", "--base-model", base] if is_multi else []
                with service(setup, *options) if some else nullcontext() as running:
                    if running is not None:
                        found |= _through_doors(running, some, seed, seeds, model_dir, scratch)
        finally:
            del os.environ["TMPDIR"]
        # torch makes a directory for compiled code where adapters are merged, and leaves it empty.
        kept = (path for path in inner.rglob("*") if not path.name.startswith("torchinductor_"))
        faults = [f"the log has a traceback: {line[-300:]}" for line in _tracebacks(scratch)]
        left = [*(_files_of(ROOT) - before), *kept]
        if left:
            faults.append(f"files stayed behind: {sorted(map(str, left))[:5]}")
        next(iter(found.values())).faults += [as_line(f"{FAULT}{fault}", b"", "all") for fault in faults]
    return found


def _tracebacks(scratch: Path) -> list[str]:
    """Return the lines of the services' logs that hold a traceback, or are not JSON."""
    lines = [line for log in scratch.glob("service-*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if "Traceback" in line or not line.startswith("{")]


def _through_doors(
    running: Service,
    counts: dict[str, int],
    seed: int,
    seeds: dict[str, bytes],
    model_dir: Path,
    scratch: Path,
) -> dict[str, Found]:
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=running.client.base_url, timeout=60, limits=limits) as client:
        address = (str(client.base_url.host), int(client.base_url.port or 0))
        doors = http_doors(client, seeds) | {
            "heads": head_door(address),
            "live": live_door(address),
            "adapters": artifact_door(client, ADAPTERS, model_dir, scratch),
            "training": training_door(scratch),
            MODELS: artifact_door(client, MODELS_ROUTE, model_dir, scratch, seeds["flac"]),
        }
        if MODELS not in counts:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda sent: client.post(sent[0], **sent[1]), honest(seeds)))
        for name in counts:
            _send(doors[name], min(WARM_UP, counts[name]), seed - 1)
        return {name: _measured(running, doors[name], count, seed, name) for name, count in counts.items()}


def _measured(running: Service, door: Door, count: int, seed: int, name: str) -> Found:
    time.sleep(SETTLE_S)
    before = tree_gib(running.pid)
    with pinged(running) as failed, progress_bar(name, count, "inputs") as advance:
        found = _send(door, count, seed, name, advance)
    time.sleep(SETTLE_S)
    found.grown_mib = round((tree_gib(running.pid) - before) * 1024, 1)
    found.faults += [as_line(f"{FAULT}{each}", b"", "ping") for each in failed]
    return found


def _send(door: Door, count: int, seed: int, name: str = "", advance: Any = None) -> Found:
    found = Found()
    lock = threading.Lock()

    def send(number: int) -> None:
        chance = random.Random(f"{seed} {name} {number}")
        begun = time.perf_counter()
        sent, outcome = door(chance)
        taken = time.perf_counter() - begun
        with lock:
            found.slowest_s = round(max(found.slowest_s, taken), 3)
            found.outcomes["fault" if outcome.startswith(FAULT) else outcome] += 1
            if outcome.startswith(FAULT):
                found.faults.append(as_line(outcome, sent, name))
            if advance is not None:
                advance(1)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(send, range(count)))
    return found


@contextmanager
def pinged(running: Service) -> Iterator[list[str]]:
    """Ask `/ping` four times a second while the block runs; yields what was wrong with the answers."""
    failed: list[str] = []
    over = threading.Event()

    def ping() -> None:
        with httpx.Client(base_url=running.client.base_url, timeout=10) as client:
            while not over.wait(0.25):
                try:
                    status = client.get("/ping").status_code
                except httpx.TransportError as error:
                    failed.append(f"/ping: {type(error).__name__}")
                else:
                    if status != 200:
                        failed.append(f"/ping: {status}")

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()


def _files_of(directory: Path) -> set[Path]:
    """Return the files of a checkout, without caches and what git keeps."""
    passed = {".git", ".hypothesis", "__pycache__", ".venv", "node_modules", "data", "runs"}
    found: set[Path] = set()
    for root, folders, names in os.walk(directory):
        folders[:] = [each for each in folders if each not in passed and not each.endswith("_cache")]
        found |= {Path(root, each) for each in names}
    return found


def table_of(found: dict[str, Found]) -> Table:
    """Return a row for each door."""
    table = Table("door", "inputs", "outcomes", "faults", "slowest s", "memory MiB")
    for name, each in found.items():
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(each.outcomes.items()))
        total = sum(each.outcomes.values())
        table.add_row(
            name,
            f"{total:,}",
            outcomes,
            str(len(each.faults)),
            f"{each.slowest_s:.2f}",
            f"{each.grown_mib:+.0f}",
        )
    return table


if __name__ == "__main__":
    main()
