"""One process that holds an engine: its start, its calls, and how it is seen to be dead, stuck or swollen."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from serve.engine import tracing
from serve.errors import EngineError, EngineLost, StartupError
from serve.service.memory import resident_bytes
from serve.service.worker.messages import DECODES, VALUES, Answer, Request, Start

WATCH_S = 0.5
"""Time between two looks at a process."""

BEAT_S = 5.0
"""Time between two calls that only ask for a sign of life."""

LATEST_BEAT_S = 30.0
"""A process that gives no sign of life for so long is stuck."""

LONGEST_LOAD_S = 3_600.0
"""Longest that anything else than decoding may take, such as the conversion of a large model."""

MAX_ANSWER_BYTES = 64 << 20
"""Largest answer that is read."""

CLOSING_S = 2.0
"""Time in which a process ends by itself once its socket is closed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may take before it is replaced."""

    call_s: float = 300.0
    """Longest decoding of a batch, in seconds."""
    memory_bytes: int | None = None
    """Most resident memory; None for no limit."""


@dataclass(frozen=True)
class _Call:
    method: str
    began: float
    answer: Future[Answer]


class Encoded:
    """Stands for an encoder output that a process keeps, and lets go of it there."""

    def __init__(self, process: WorkerProcess, encoded_id: int) -> None:
        self.process = process
        self.id = encoded_id

    def __del__(self) -> None:
        self.process.forgotten.append(self.id)


class WorkerProcess:
    """A running process. Thread-safe."""

    def __init__(self, start: Start, limits: Limits) -> None:
        """Start the process, without an engine; `call("load", spec)` loads one."""
        self._limits = limits
        self.began = time.monotonic()
        self.reason = ""
        """Why it was ended, if this side did it."""
        self.forgotten: deque[int] = deque()
        """Ids of encoder outputs that nobody needs any more; the next call tells the process."""
        self.is_over = threading.Event()
        """Set once the process has ended and all its calls have failed."""
        self._ids = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "serve.service.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=_own_stderr(),
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # a terminal's Ctrl-C is for the service
            )
        self._hangup = ours.dup()
        self._connection = Connection(ours.detach())
        try:
            self._connection.send_bytes(pickle.dumps(start))
        except OSError as error:
            self._process.kill()
            raise EngineLost from error
        for work in (self._listen, self._watch, self._beat):
            threading.Thread(target=work, name=f"worker{work.__name__}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def memory_bytes(self) -> int:
        """Resident memory; 0 once the process has ended."""
        try:
            return resident_bytes(self.pid)
        except (OSError, IndexError):
            return 0

    def new_encoded(self) -> Encoded:
        """Return a place for an encoder output."""
        return Encoded(self, next(self._ids))

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the engine and return its value.

        Raises:
            StartupError: A model cannot be found, converted or loaded.
            EngineError: The runtime failed.
            EngineLost: The process ended before it answered.
        """
        answer = self._asked(method, arguments).result()
        tracing.replay(answer.steps)
        if (failure := answer.failure) is not None:
            raise (StartupError if failure.kind == "startup" else EngineError)(failure.message)
        try:
            return msgspec.msgpack.decode(answer.value, type=VALUES[method])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EngineError(f"the engine's process answered {method} with something else") from error

    def _asked(self, method: str, arguments: tuple[Any, ...]) -> Future[Answer]:
        forget: list[int] = []
        with suppress(IndexError):  # another thread may take some of them
            while True:
                forget.append(self.forgotten.popleft())
        request = Request(next(self._ids), method, arguments, tuple(forget))
        pickled = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        call = _Call(method, time.monotonic(), Future())
        with self._lock:
            if self.is_over.is_set():
                raise EngineLost
            self._calls[request.id] = call
        with self._sending, suppress(OSError):  # the listener sees the end too, and fails the call
            if not self.is_over.is_set():
                self._connection.send_bytes(pickled)
        return call.answer

    def kill(self, reason: str) -> None:
        """End the process at once; its calls fail."""
        self.reason = self.reason or reason
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        self.reason = self.reason or "closed"
        with suppress(OSError):
            self._hangup.shutdown(socket.SHUT_RDWR)  # closing the connection would not wake its reader
        if not self.is_over.wait(CLOSING_S):
            self.kill("does not end")
            self.is_over.wait(CLOSING_S)

    @property
    def exit_status(self) -> int | None:
        """Status, negative for a signal; None while it runs."""
        return self._process.poll()

    def _listen(self) -> None:
        """Hand out answers until the process ends; then fail what was not answered."""
        try:
            while True:
                answer = msgspec.msgpack.decode(self._connection.recv_bytes(MAX_ANSWER_BYTES), type=Answer)
                with self._lock:
                    call = self._calls.pop(answer.id, None)
                if call is not None:
                    call.answer.set_result(answer)
        except Exception as error:  # the socket's end, or an answer that is none
            if not isinstance(error, EOFError | OSError):
                self.reason = self.reason or "its answer is none"
        finally:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel ends when it can
            self._process.wait(CLOSING_S)
        with self._lock:
            left = list(self._calls.values())
            self._calls.clear()
            self.is_over.set()
        for call in left:
            call.answer.set_exception(EngineLost())
        with self._sending:
            self._connection.close()
            self._hangup.close()

    def _watch(self) -> None:
        """End the process if a batch takes too long, no sign of life comes, or memory exceeds its limit."""
        limit_bytes = self._limits.memory_bytes
        while not self.is_over.wait(WATCH_S):
            with self._lock:
                calls = list(self._calls.values())
            ages_s = {call.method: time.monotonic() - call.began for call in reversed(calls)}
            if max(ages_s.get(method, 0.0) for method in DECODES) > self._limits.call_s:
                self.kill("a batch took too long")
            elif max(ages_s.values(), default=0.0) > LONGEST_LOAD_S:
                self.kill("a call took too long")
            elif ages_s.get("beat", 0.0) > LATEST_BEAT_S:
                self.kill("no sign of life")
            elif limit_bytes is not None and self.memory_bytes > limit_bytes:
                self.kill("memory over its limit")

    def _beat(self) -> None:
        with suppress(EngineLost):
            while not self.is_over.wait(BEAT_S):
                self._asked("beat", ()).result()


def _own_stderr() -> int | None:
    """Return where this process's own log lines go; see `serve.config.logs.keep_libraries_out`."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # not a file, as under a test
        return None
