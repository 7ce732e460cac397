"""Do a corpus's shards by Ray Data: actors hold the model, each on its cores or its GPU.

Without an address, Ray runs in processes of this command, and listens on loopback only. This is the only
module that imports Ray. Knows no files: a worker gets a shard and returns a report.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import psutil

from serve.errors import ShrotaError, StartupError
from serve.transcribe.batch.plan import Shard
from serve.transcribe.batch.step import SHARDS_AT_ONCE, Report, Step, Work

OBJECT_STORE_BYTES = 96 << 20
"""Ray's memory for what workers exchange: here only lists of paths."""

TRIES = 20
"""How often a shard is begun whose worker died, before the run is given up."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
LOCAL_ENVIRONMENT = {
    "RAY_enable_metrics_collection": "0",  # nobody reads them
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_worker_niceness": "0",  # Ray's workers would run at low priority, although all of the work is theirs
    # Despite its name Ray obeys it on any system: all of its sockets are then on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

NEEDLESS = ("monitor.py", "log_monitor.py")
"""Ray's processes without work on one machine: it cannot grow, and logs go nowhere. The first also takes a
second to end."""


@dataclass(frozen=True, kw_only=True)
class Pools:
    """How many workers of which kind."""

    n_workers: int | None
    """Workers on CPUs; None takes all cores that GPU workers leave."""
    n_gpu_workers: int
    worker_threads: int
    """Cores of a worker on CPUs."""
    worker_memory_bytes: int | None
    """Memory that Ray keeps for each worker; None keeps none."""
    address: str | None
    """A running cluster; None starts Ray here."""


class Worker:
    """An actor: a loaded model that does shard after shard, `SHARDS_AT_ONCE` at a time."""

    def __init__(self, work: Work, *, is_gpu: bool) -> None:
        from serve.config.logs import configure_logs

        configure_logs("error")
        if not is_gpu:  # before a runtime is imported: this worker was given no GPU, even if there is one
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._step = Step(work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = msgspec.json.decode(row["shard"], type=Shard)
        report: dict[str, Any] = msgspec.to_builtins(self._step.run(shard))
        return report


def run_on_ray(work: Work, shards: Sequence[Shard], pools: Pools) -> Generator[Report, None, None]:
    """Yield a report for each shard, once it is done.

    Raises:
        StartupError: There are no resources for the workers.
        ShrotaError: A worker failed for a reason that is not a recording's.
    """
    with _ray(pools, work.n_threads) as ray:
        try:
            results = _dataset(ray, work, shards, pools)
            seen: set[str] = set()
            for row in results.iter_rows():
                report = msgspec.convert(row, Report)
                if report.shard not in seen:  # workers of two kinds may meet in the middle
                    seen.add(report.shard)
                    yield report
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error


@contextmanager
def _ray(pools: Pools, n_threads: int) -> Iterator[Any]:
    """Start Ray, or join a cluster, while the block runs."""
    for name, value in (ENVIRONMENT if pools.address else ENVIRONMENT | LOCAL_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    import ray.data

    for name in ("ray", "ray.data"):  # which bring handlers of their own
        logging.getLogger(name).setLevel(logging.ERROR)
    usual: dict[str, Any] = {"configure_logging": False, "log_to_driver": False, "namespace": "shrota"}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if pools.address:
            ray.init(address=pools.address, **usual)
        else:
            n_cores = ((pools.n_workers or 0) + pools.n_gpu_workers) * pools.worker_threads
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=max(n_cores, n_threads, pools.n_gpu_workers + 1),
                object_store_memory=OBJECT_STORE_BYTES,
                **usual,
            )
            _end_needless()
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StartupError(f"Ray cannot be started or joined: {error}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there
    try:
        yield ray
    finally:
        ray.shutdown()


def _end_needless() -> None:
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if any(Path(word).name in NEEDLESS for word in process.cmdline()):
                process.kill()


def _dataset(ray: Any, work: Work, shards: Sequence[Shard], pools: Pools) -> Any:
    """Return the dataset of reports.

    Workers on GPUs begin with the longest recordings, those on CPUs with the shortest where there are both;
    they meet somewhere, and a shard that is done is passed over. So neither waits for the other.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    n_cores = int(ray.cluster_resources().get("CPU", 0))
    n_left = max(0, n_cores - pools.n_gpu_workers) // pools.worker_threads
    n_cpu = n_left if pools.n_workers is None else pools.n_workers
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    if pools.n_gpu_workers > n_gpus:
        raise StartupError(f"--gpu-workers is {pools.n_gpu_workers}, and Ray has {n_gpus} GPUs")
    if n_cpu * pools.worker_threads + pools.n_gpu_workers > n_cores:
        raise StartupError(f"the workers need more than the {n_cores} cores that Ray has")
    if not n_cpu + pools.n_gpu_workers:
        raise StartupError("there are no workers: set --workers or --gpu-workers")
    work = replace(work, n_workers=max(1, n_cpu + pools.n_gpu_workers))
    parts = []
    if pools.n_gpu_workers:
        parts.append(_reports(ray, work, shards, pools, n_actors=pools.n_gpu_workers, is_gpu=True))
    if n_cpu:
        order = shards[::-1] if pools.n_gpu_workers else shards
        parts.append(_reports(ray, work, order, pools, n_actors=n_cpu, is_gpu=False))
    return parts[0] if len(parts) == 1 else parts[0].union(parts[1])


def _reports(
    ray: Any, work: Work, shards: Sequence[Shard], pools: Pools, *, n_actors: int, is_gpu: bool
) -> Any:
    n_threads = 1 if is_gpu else pools.worker_threads
    resources: dict[str, Any] = {"num_cpus": n_threads, "num_gpus": 1 if is_gpu else 0}
    if pools.worker_memory_bytes:
        resources["memory"] = pools.worker_memory_bytes
    rows = [{"shard": msgspec.json.encode(shard)} for shard in shards]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Worker,
        fn_constructor_args=[replace(work, n_threads=n_threads)],
        fn_constructor_kwargs={"is_gpu": is_gpu},
        compute=ray.data.ActorPoolStrategy(
            size=n_actors,
            max_tasks_in_flight_per_actor=SHARDS_AT_ONCE,
            max_concurrent_calls_per_actor=SHARDS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        max_task_retries=TRIES,
        **resources,
    )


def _own_error(error: BaseException) -> ShrotaError:
    """Return the reason why workers failed: ours where there is one, or Ray's in a sentence."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ShrotaError):
            return StartupError(str(getattr(cause, "cause", None) or cause).strip().splitlines()[-1])
        cause = getattr(cause, "cause", None) or cause.__cause__
    last = str(error).strip().splitlines()[-1]
    return StartupError(f"Ray's workers failed: {last}; the same command goes on from what is done")
