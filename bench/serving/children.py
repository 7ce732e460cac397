"""Child processes of the benchmark: a peer that transcribes recordings, and our service on a port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from bench.serving.peers import PEERS
from bench.serving.recordings import Recording
from bench.serving.setup import ROOT, Setup

SETTLE_S = 0.25
"""Pause before each timed call: OpenMP threads of another process spin for up to 0.2 s after their work."""
SAMPLING_S = 0.05
SERVICE_START_S = 300.0
POLL_S = 0.02


class ChildFailed(Exception):
    """A child process ended or never started; the message ends with its last output."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Text and time of a peer for one recording."""

    text: str
    seconds: float
    peak_gib: float
    """Peak memory of the peer's process so far."""


class PeerProcess:
    """A peer, loaded and warm, in a process of its own."""

    def __init__(self, setup: Setup, name: str, warm_up: Recording, *, long: bool = False) -> None:
        """Start, load, and transcribe `warm_up` once.

        Raises:
            ChildFailed: The peer is not installed, or cannot load its weights.
        """
        self.name = name
        self._log = setup.scratch / f"{name}.log"
        options = {
            "peer": name,
            "artifact_dir": str(setup.artifact_dir),
            "weights": str(setup.weights),
            "engine": setup.engine,
            "language": setup.language,
            "n_threads": setup.n_threads,
            "long": long,
        }
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "bench.serving.worker", json.dumps(options)],
                cwd=ROOT,
                env=setup.child_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        try:
            self._read()
            self.transcribe(warm_up)
        except ChildFailed:
            self.close()
            raise

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._child.poll() is not None

    def transcribe(self, recording: Recording, settle_s: float = SETTLE_S) -> Answer:
        """Transcribe a recording, timed by the peer's process itself, `settle_s` after the call before.

        Raises:
            ChildFailed: The peer ended.
        """
        assert self._child.stdin is not None
        time.sleep(settle_s)
        try:
            print(recording.path, file=self._child.stdin, flush=True)
        except OSError as error:
            raise self._failure() from error
        return Answer(**self._read())

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.communicate()

    def __enter__(self) -> PeerProcess:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> ChildFailed:
        status = self._child.wait()
        return ChildFailed(f"{PEERS[self.name].label} ended with status {status}: {_last_line(self._log)}")


@dataclass(frozen=True, kw_only=True)
class Service:
    """Our service, ready for requests."""

    client: httpx.Client
    pid: int
    ready_s: float
    """Time from the start of the process to the first 200 from /ping."""
    ready_cpu_s: float
    """Processor time of the process and its ended children until then."""

    def post(self, recording: Recording, **parameters: str) -> str:
        """Return the text of a recording's JSON answer."""
        answer = self.client.post("/invocations", content=recording.path.read_bytes(), params=parameters)
        text: str = answer.raise_for_status().json()["text"]
        return text

    @contextmanager
    def stream(self, content: bytes | Iterator[bytes], **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
        """Post a FLAC recording and yield its events; leaving the block aborts the request.

        Raises:
            ChildFailed: The transcription broke off.
        """
        headers = {"accept": "application/x-ndjson", "content-type": "audio/flac", **headers}
        with self.client.stream("POST", "/invocations", content=content, headers=headers) as answer:
            answer.raise_for_status()
            yield map(_read_event, answer.iter_lines())


def _read_event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line)
    if event["type"] == "error":
        raise ChildFailed(f"the service broke off: {line}")
    return event


@contextmanager
def service(setup: Setup, *options: str, tree: Path = ROOT) -> Iterator[Service]:
    """Run a tree's service as a child process, with the defaults of `make serve` but for `options`.

    Raises:
        ChildFailed: It ended before it was ready, or took minutes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serve", "--model-dir", str(setup.artifact_dir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--engine", setup.engine, "--n-threads", str(setup.n_threads), *options]
    log_path = setup.scratch / f"service-{port}.log"
    with log_path.open("w") as log:
        started = time.perf_counter()
        environment = setup.child_environment() | {"PYTHONPATH": str(tree)}
        child = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        limits = httpx.Limits(max_connections=64)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1200, limits=limits) as client:
            _wait_until_ready(client, child, log_path)
            ready_s = time.perf_counter() - started
            yield Service(client=client, pid=child.pid, ready_s=ready_s, ready_cpu_s=cpu_s(child.pid))
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


class MemoryWatch:
    """Measures the peak memory of a process and its children together while the block runs."""

    def __init__(self, pid: int) -> None:
        self.peak_gib = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        """Start measuring."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop measuring; `peak_gib` stays readable."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING_S):
            self.peak_gib = max(self.peak_gib, tree_gib(self._pid))


def tree_gib(pid: int) -> float:
    """Return the resident memory of a process and its descendants, in GiB; ended ones count as 0."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = [t.read_text().split() for t in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = int(status.partition("VmRSS:")[2].split()[0]) / 2**20 if "VmRSS:" in status else 0.0
    return own + sum(tree_gib(int(child)) for found in children for child in found)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its descendants have used, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [t.read_text().split() for t in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_s(int(child)) for found in children for child in found)


def _wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVICE_START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise ChildFailed(f"the service ended with status {child.returncode}: {_last_line(log)}")
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise ChildFailed(f"the service was not ready within {SERVICE_START_S:.0f} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
