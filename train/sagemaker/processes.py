"""Start the training processes of one machine, forward signals to them, and report how they ended.

A single process is started directly, several (GPUs or machines) through torchrun. The parent stays small, so
that it can report a trainer that the kernel killed for lack of memory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from train.errors import TrainError
from train.loop.stopping import StopRequest, stop_on_signals
from train.sagemaker.job import TrainingJob

GRACE_S = 110.0
"""Time from SIGTERM to SIGKILL; the platform itself kills ten seconds later."""
MASTER_PORT = 7777
"""Rendezvous port of the first host; the variable `MASTER_PORT` names another."""
_RESOLVE_S = 120.0
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a supervised command ended."""

    status: int
    """Exit status, or minus the number of the signal that ended it."""
    stopped: bool
    """Whether a signal had requested the end."""


def training_command(
    job: TrainingJob, program: Sequence[str], n_processes: int, environ: Mapping[str, str]
) -> list[str]:
    """Return the command that trains on this machine.

    Args:
        n_processes: Processes on this machine: one for each GPU, or one.
        environ: May hold the port as `MASTER_PORT`.
    """
    if len(job.hosts) == 1 and n_processes == 1:
        return [sys.executable, *program]
    options = {
        "--nnodes": len(job.hosts),
        "--nproc-per-node": n_processes,
        "--node-rank": job.node_rank,
        "--master-addr": job.hosts[0] if len(job.hosts) > 1 else "127.0.0.1",
        "--master-port": environ.get("MASTER_PORT", MASTER_PORT),
    }
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "torch.distributed.run", *words, *program]


def network_variables(job: TrainingJob) -> dict[str, str]:
    """Return the variables that tell NCCL and gloo which network interface to use."""
    if len(job.hosts) == 1 or not job.network_interface:
        return {}
    return {f"{library}_SOCKET_IFNAME": job.network_interface for library in ("NCCL", "GLOO")}


def wait_for_host(
    name: str, timeout_s: float = _RESOLVE_S, *, given_up: Callable[[], bool] = lambda: False
) -> None:
    """Wait until a host's name has an address; a job's machines get theirs some time after its start.

    Raises:
        TrainError: The name has no address after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not given_up():
        try:
            socket.getaddrinfo(name, None)
            return
        except socket.gaierror as error:
            if time.monotonic() >= deadline:
                raise TrainError(
                    f"host '{name}' has no address after {timeout_s:.0f} s: {error.strerror}"
                ) from error
            time.sleep(min(1.0, timeout_s / 10))


def supervise(command: Sequence[str], environ: Mapping[str, str], *, wait_for: Sequence[str] = ()) -> Ending:
    """Run a command to its end; forward SIGTERM and SIGINT to the processes that train.

    torchrun itself gets no signal: it would kill its processes after 30 s, in the middle of a step or a
    checkpoint. Its processes save and end, and torchrun ends with them.

    Args:
        wait_for: Hosts whose names must have an address first.

    Raises:
        TrainError: A host's name has no address.
    """
    with stop_on_signals() as stop:
        for host in wait_for:
            wait_for_host(host, given_up=lambda: stop.requested)
        if stop.requested:
            return Ending(status=0, stopped=True)
        child = subprocess.Popen(command, env=dict(environ), start_new_session=True)
        try:
            return Ending(status=_wait(child, stop), stopped=stop.requested)
        finally:
            with suppress(ProcessLookupError):  # end helpers that a killed trainer leaves behind
                os.killpg(child.pid, signal.SIGKILL)


def _wait(child: subprocess.Popen[bytes], stop: StopRequest) -> int:
    deadline: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return child.wait(_POLL_S)
        if stop.requested and deadline is None:
            deadline = time.monotonic() + GRACE_S
            for pid in _trainers(child):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            for pid in (*_trainers(child), child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _trainers(child: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes to signal: torchrun's children, or without torchrun the one process."""
    words = child.args if isinstance(child.args, list) else []
    children: list[int] = []
    if "torch.distributed.run" in words:
        for task in Path(f"/proc/{child.pid}/task").glob("*/children"):
            with suppress(OSError):
                children += [int(pid) for pid in task.read_text().split()]
    return children or [child.pid]
