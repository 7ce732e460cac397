"""Decode what libsndfile reads to blocks of float32, in a confined process that is forked for the one file.

libsndfile takes 2 ms for a short clip where ffmpeg takes 20 to 100 to start, so it has a cage of its own:
`serve.audio.caged.sndfile_child`.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serve.audio.caged import sndfile_child
from serve.audio.caged.ffmpeg import CHECK_EVERY_S, PIPE_BYTES, ChildLimits, anonymous_file
from serve.audio.caged.sndfile_child import DAMAGED, HEADER, MAX_BLOCK_VALUES, SIZE
from serve.audio.samples import Samples
from serve.errors import EngineError, UndecodableAudio

MEMORY_BYTES = 512 << 20
"""Limit on a process's address space; Python and numpy take 150 MB of it before a file comes."""


@dataclass(frozen=True)
class SndFile:
    """An opened file."""

    sample_rate: int
    """Hz."""
    n_channels: int
    n_frames: int
    """The file declares it, or libsndfile guesses it."""
    blocks: Iterator[Samples]
    """Each (n_frames, n_channels)."""


@contextmanager
def open_with_sndfile(
    data: bytes, limits: ChildLimits, block_s: float, check: Callable[[], None] = lambda: None
) -> Iterator[SndFile | None]:
    """Open a file.

    Args:
        limits: `timeout_s` limits the time spent waiting for the process, and its processor time.
        block_s: Seconds of a block, over all channels.
        check: Called several times a second; raises once nobody waits for the recording any more.

    Yields:
        The file; None where libsndfile cannot read it.

    Raises:
        UndecodableAudio: The file takes too much time or memory. The blocks raise it where it is damaged.
    """
    asked = {
        "memory_bytes": MEMORY_BYTES,
        "processor_s": math.ceil(limits.timeout_s),
        "block_s": block_s,
    }
    with ExitStack() as stack:
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        try:
            with anonymous_file(data) as body:
                del data  # the file has a copy
                handle = _CAGE.decode(body.fileno(), writing, json.dumps(asked).encode())
        finally:
            os.close(writing)
        if handle is not None:
            stack.callback(_end, handle)
        pipe = _Pipe(reading, limits.timeout_s, check)
        sample_rate, n_channels, n_frames = HEADER.unpack(pipe.read(HEADER.size))
        if not n_channels:
            yield None
            return
        yield SndFile(sample_rate, n_channels, n_frames, _blocks(pipe, n_channels))


def _blocks(pipe: _Pipe, n_channels: int) -> Iterator[Samples]:
    while n_bytes := SIZE.unpack(pipe.read(SIZE.size))[0]:
        if n_bytes == DAMAGED or n_bytes % (4 * n_channels) or n_bytes > 4 * (MAX_BLOCK_VALUES + n_channels):
            raise UndecodableAudio("the recording is damaged or cut off")
        yield np.frombuffer(pipe.read(n_bytes), np.float32).reshape(-1, n_channels)


def _end(handle: int) -> None:
    """End a process by its pidfd."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)


class _Pipe:
    """The reading end of a pipe. Only time spent waiting counts: what nobody reads does not make it slow."""

    def __init__(self, fd: int, timeout_s: float, check: Callable[[], None]) -> None:
        self._fd, self._left_s, self._timeout_s, self._check = fd, timeout_s, timeout_s, check
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def read(self, n_bytes: int) -> bytearray:
        """Return so many bytes.

        Raises:
            UndecodableAudio: They do not come.
        """
        read = bytearray(n_bytes)
        left = memoryview(read)
        while left:
            self._wait()
            n_read = os.readv(self._fd, [left[:PIPE_BYTES]])
            if not n_read:
                raise UndecodableAudio("the recording is damaged, or costs too much memory to decode")
            left = left[n_read:]
        return read

    def _wait(self) -> None:
        while True:
            self._check()
            started = time.monotonic()
            is_ready = self._poll.poll(min(self._left_s, CHECK_EVERY_S) * 1000)
            self._left_s -= time.monotonic() - started
            if is_ready:
                return
            if self._left_s <= 0:
                raise UndecodableAudio(f"the recording could not be decoded within {self._timeout_s:g} s")


class _Cage:
    """The process that forks. Thread-safe; started at the first file, and again where it has ended."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without a process: in a fork of this one, it belongs to the other."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def decode(self, body: int, out: int, asked: bytes) -> int | None:
        """Have a file decoded into a pipe; return the pidfd of the process, where the system has these."""
        with self._lock:
            for _ in range(2):
                control = self._started()
                try:
                    socket.send_fds(control, [asked], [body, out])
                    answer, handles, _, _ = socket.recv_fds(control, 1, 1)
                except OSError:
                    answer = b""
                if answer:
                    return handles[0] if handles else None
                self._stop()
        raise EngineError("the decoder does not start; the service's memory may be full")

    def start(self) -> None:
        """Start the process now, so that the first file need not."""
        with self._lock:
            self._started()

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(Path(sndfile_child.__file__))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # codecs print there
                    env={**_environment(), "OPENBLAS_NUM_THREADS": "1"},
                    cwd="/",
                    start_new_session=True,
                )
        return self._control

    def _stop(self) -> None:
        assert self._control is not None and self._process is not None
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._control = self._process = None


def _environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ}


_CAGE = _Cage()
os.register_at_fork(after_in_child=_CAGE.forget)
start_cage = _CAGE.start
