"""The engine's process: answers calls that come through a socket, until the socket closes.

python -m serve.service.worker 5        # the socket's number
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import structlog

from serve.config.logs import configure_logs, keep_libraries_out
from serve.engine import DecodingOptions, Engine, EngineInput, Hypothesis, LanguageProbs, tracing
from serve.engine.loading import EngineSpec, import_runtime, load_engine
from serve.errors import ServiceError, StartupError
from serve.model.allocator import return_freed_memory, share_arenas
from serve.model.artifact import Artifact
from serve.service.worker.messages import DECODES, Answer, Failure, Loaded, Request, Row, Start

MAX_CALLS = 64
"""Calls at a time that decode, and as many that do not: a conversion must keep nobody from decoding."""

STUCK_S = 120.0
"""A process that reads nothing for so long ends itself. The service asks every few seconds; one that is gone
cannot end a process that hangs."""

NICE = 5
"""The service goes before the engine, so that it refuses and answers /ping at once under any load."""

OUT_OF_MEMORY_SCORE = 500
"""The kernel ends this process before the service."""

_log = structlog.get_logger(__name__)


class Worker:
    """Serves an engine to the process at the other end of a connection."""

    def __init__(self, connection: Connection) -> None:
        """Serve nothing yet; see `run`."""
        self._connection = connection
        self._sending = threading.Lock()
        self._decoding = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="decode")
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="call")
        self._encoded: dict[int, Any] = {}
        self._engine: Engine
        self._nowhere = Path(os.devnull).open("w")  # noqa: SIM115

    def run(self) -> None:
        """Answer calls until the other end closes the connection."""
        while True:
            try:
                request: Request = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                return
            faulthandler.dump_traceback_later(STUCK_S, exit=True, file=self._nowhere)
            for encoded_id in request.forget:
                self._encoded.pop(encoded_id, None)
            if request.method == "beat":  # answered by this thread, which must never be busy for long
                self._send(Answer(request.id))
            else:
                threads = self._decoding if request.method in DECODES else self._threads
                threads.submit(self._answer, request)

    def _answer(self, request: Request) -> None:
        with tracing.collected() as steps:
            try:
                value = getattr(self, f"_{request.method}")(*request.arguments)
                answer = Answer(request.id, msgspec.Raw(msgspec.msgpack.encode(value)), steps=tuple(steps))
            except StartupError as error:
                answer = Answer(request.id, failure=Failure("startup", str(error)))
            except ServiceError as error:
                answer = Answer(request.id, failure=Failure("engine", str(error)))
            except Exception as error:
                _log.error("worker.failed", method=request.method, exc_info=error)
                answer = Answer(
                    request.id, failure=Failure("engine", f"{type(error).__name__} in the engine")
                )
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        encoded = msgspec.msgpack.encode(answer)
        with self._sending, suppress(OSError):  # a service that is gone ends `run` too
            self._connection.send_bytes(encoded)

    def _load(self, spec: EngineSpec) -> Loaded:
        self._engine = engine = load_engine(spec)
        _give_way()
        return Loaded(engine.n_workers, engine.usual_batch, engine.languages, engine.has_adapter)

    def _kind(self, window: EngineInput) -> str:
        return repr(self._engine.kind(window))

    def _unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        return self._engine.unsupported(options)

    def _detect_language(self, rows: Sequence[Row]) -> list[LanguageProbs]:
        windows = self._windows(rows)
        found = self._engine.detect_language(windows)
        self._keep(rows, windows)
        return found

    def _decode(self, rows: Sequence[Row]) -> list[Hypothesis]:
        windows = self._windows(rows)
        found = self._engine.decode(windows)
        self._keep(rows, windows)
        return found

    def _adapter_bytes(self, artifact: Artifact) -> int:
        return self._engine.adapter_bytes(artifact)

    def _base_bytes(self) -> int:
        return self._engine.base_bytes()

    def _bytes_to_load(self, options: DecodingOptions) -> int:
        return self._engine.bytes_to_load(options)

    def _load_adapter(self, key: str, artifact: Artifact) -> None:
        self._engine.load_adapter(key, artifact)

    def _unload_adapter(self, key: str) -> None:
        self._engine.unload_adapter(key)
        return_freed_memory()

    def _make_ready(self, options: DecodingOptions) -> None:
        self._engine.make_ready(options)

    def _windows(self, rows: Sequence[Row]) -> list[EngineInput]:
        return [
            EngineInput(log_mel=row.log_mel, options=row.options, encoded=self._encoded.get(row.encoded_id))
            for row in rows
        ]

    def _keep(self, rows: Sequence[Row], windows: Sequence[EngineInput]) -> None:
        for row, window in zip(rows, windows, strict=True):
            if window.encoded is not None:
                self._encoded[row.encoded_id] = window.encoded


def _give_way() -> None:
    """Lower the priority of all threads; before, the service waits for this process to be ready."""
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICE)


def main() -> None:
    """Serve the socket whose number is the only argument."""
    for each in (signal.SIGINT, signal.SIGTERM):  # for the service, which still has requests to finish
        signal.signal(each, lambda *_: None)  # which children do not inherit, as they would SIG_IGN
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OUT_OF_MEMORY_SCORE))
    os.set_inheritable(int(sys.argv[1]), False)
    connection = Connection(int(sys.argv[1]))
    start: Start = pickle.loads(connection.recv_bytes())
    share_arenas(start.n_threads)
    keep_libraries_out()
    configure_logs(start.log_level)
    import_runtime(start.runtime)
    Worker(connection).run()
    os._exit(0)  # batches that still run have nobody to answer to


if __name__ == "__main__":
    main()
