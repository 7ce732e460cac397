"""Several processes train one adapter: `torchrun --nproc_per_node 2 train/run.py --config FILE`.

torchrun restarts the processes when one of them dies (`--max-restarts`), fewer of them where a machine has
left (`--nnodes 1:2`), and they go on from the newest checkpoint.

Each process holds the whole frozen base and computes its own share of a step's batches. The adapter is a few
megabytes: its gradients are summed by hand, which works with any base, quantised or not. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together. With one process, every exchange returns its input."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Number among the machine's processes, which is also its GPU."""
    local_count: int = 1
    restarted: bool = False
    """Whether torchrun started this process in place of one that ended, so that the run goes on."""
    agents: frozenset[str] = frozenset()
    """Names of the torchruns that started the processes, one on each machine. A torchrun keeps its name when
    it starts them again, which it does without counting a restart when a machine joins. `--rdzv-id` is no
    such name: people give the same one at every launch."""

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints, metrics and the artifact."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The process's own GPU, or the CPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def n_threads(self) -> int:
        """CPU threads for this process: the machine's cores, divided by its processes."""
        return max(1, (os.cpu_count() or 1) // self.local_count)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of each value over the processes, the same everywhere."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return self.sum([float(flag)])[0] > 0

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; a missing one counts as zeros."""
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        for parameter, summed in zip(parameters, parts, strict=True):
            parameter.grad = summed.view_as(parameter)

    def from_leader(self, value: T) -> T:
        """Return the leader's value."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Run the block in the first process of each machine before the others, which then find its files."""
        if self.local_rank > 0:
            self.any(False)
        yield
        if self.local_rank == 0:
            self.any(False)

    def gather(self, values: dict[int, T]) -> dict[int, T]:
        """Return the entries of every process in one dictionary, the same everywhere."""
        if self.count == 1:
            return values
        parts: list[dict[int, T]] = [{} for _ in range(self.count)]
        torch.distributed.all_gather_object(parts, values)
        return {key: value for part in parts for key, value in part.items()}


ALONE = Processes()


@contextmanager
def join_processes(environ: Mapping[str, str]) -> Iterator[Processes]:
    """Join the other processes that torchrun started while the block runs; without torchrun, yield `ALONE`.

    Args:
        environ: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE` and the rendezvous address, set by
            torchrun.
    """
    restarted = int(environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    agents = agents_of(environ)
    if "RANK" not in environ or int(environ["WORLD_SIZE"]) == 1:
        yield Processes(restarted=restarted, agents=agents)
        return
    processes = Processes(
        rank=int(environ["RANK"]),
        count=int(environ["WORLD_SIZE"]),
        local_rank=int(environ["LOCAL_RANK"]),
        local_count=int(environ["LOCAL_WORLD_SIZE"]),
        restarted=restarted,
    )
    if processes.device.type == "cuda":
        torch.cuda.set_device(processes.device)
        torch.distributed.init_process_group("nccl", device_id=processes.device)
    else:
        torch.distributed.init_process_group("gloo")
    try:
        everywhere = processes.gather({processes.rank: agents})
        yield replace(processes, agents=frozenset().union(*everywhere.values()))
    finally:
        torch.distributed.destroy_process_group()


def agents_of(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the name of the torchrun that started this process; empty without one, or if it keeps no files.

    Only the directory that it makes for its files, once and at random, tells it from earlier ones:
    `DIR/attempt_N/RANK/error.json`.
    """
    errors = environ.get("TORCHELASTIC_ERROR_FILE")
    return frozenset([str(Path(errors).parents[2])] if errors else [])
