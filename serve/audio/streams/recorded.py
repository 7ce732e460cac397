"""A container that is still being recorded, in pieces cut anywhere -> samples at 16 kHz.

    with RecordedStream(limits) as stream:
        samples = stream.push(piece)     # (n_samples,), possibly empty
        last = stream.flush()

For WebM and Ogg, as a browser's MediaRecorder sends them: only the first piece has a header. An ffmpeg child
process decodes them, confined as for files. A recorder that is stopped and started again sends a new header;
then a new child goes on where the old one ended.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

import ffmpeg
import numpy as np

from serve.audio.caged.ffmpeg import CODECS, PIPE_BYTES, ChildLimits, ffmpeg_binary, restrict
from serve.audio.container import EBML_HEAD, MATROSKA, OGG, Container, sniff_container
from serve.audio.samples import SAMPLE_RATE, Samples, without_wild_values
from serve.errors import UndecodableAudio

STREAMED = (MATROSKA, OGG)
HEAD_BYTES = 4
"""Enough to recognise either."""

PATIENCE_S = 0.03
"""Time that the child has to decode a piece, before its output counts as later sound."""

LAST_WORDS_S = 5.0
"""Time for the last sound after the end of the input."""


class RecordedStream(AbstractContextManager["RecordedStream"]):
    """Decodes one recording while it grows."""

    def __init__(self, limits: ChildLimits) -> None:
        """Begin; `timeout_s` of the limits is the processor time of each child."""
        self._limits = limits
        self._head = b""
        self._rest = b""  # an incomplete sample
        self._child: subprocess.Popen[bytes] | None = None
        self._has_decoded = False

    def push(self, data: bytes, *, is_first: bool = True) -> Samples:
        """Return the samples that are known after these bytes.

        Args:
            data: The next bytes.
            is_first: Whether a message begins with them, so that they may be a new header.

        Raises:
            UndecodableAudio: This is neither WebM nor Ogg, or it is damaged.
        """
        earlier = np.zeros(0, np.float32)
        if self._child is not None and is_first and data.startswith(EBML_HEAD):
            earlier = self.flush()
        if self._child is None:
            self._head += data
            if len(self._head) < HEAD_BYTES:
                return earlier
            data, self._head = self._head, b""
            self._child = self._started(data)
        return np.concatenate([earlier, self._feed(self._child, data)])

    def flush(self) -> Samples:
        """Return the last samples; a new recording may follow.

        Raises:
            UndecodableAudio: It is damaged, and nothing could be decoded.
        """
        child, self._child, self._head = self._child, None, b""
        if child is None:
            return np.zeros(0, np.float32)
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        out, deadline = bytearray(self._rest), time.monotonic() + LAST_WORDS_S
        while select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (piece := os.read(child.stdout.fileno(), PIPE_BYTES)):
                break
            out += piece
        self._rest = b""
        status = _end(child)
        if status and not out and not self._has_decoded:
            raise UndecodableAudio("the stream is damaged, or holds no sound that can be decoded")
        return _samples(bytes(out[: len(out) - len(out) % 4]))

    def __exit__(self, *error: object) -> None:
        child, self._child = self._child, None
        if child is not None:
            _end(child)

    def _started(self, head: bytes) -> subprocess.Popen[bytes]:
        container = sniff_container(head)
        if container not in STREAMED:
            raise UndecodableAudio("the stream is neither WebM nor Ogg: it begins with no header of theirs")
        child = subprocess.Popen(
            _command(container),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            cwd="/",
            start_new_session=True,
        )
        assert child.stdin is not None and child.stdout is not None
        restrict(child.pid, self._limits)
        os.set_blocking(child.stdin.fileno(), False)
        return child

    def _feed(self, child: subprocess.Popen[bytes], data: bytes) -> Samples:
        """Write bytes to the child, and read what it has decoded by then."""
        assert child.stdin is not None and child.stdout is not None
        out, left = bytearray(self._rest), memoryview(data)
        while True:
            writes = [child.stdin] if left else []
            patience_s = LAST_WORDS_S if left else PATIENCE_S
            ready, writable, _ = select.select([child.stdout], writes, [], patience_s)
            if ready:
                if not (piece := os.read(child.stdout.fileno(), PIPE_BYTES)):
                    raise UndecodableAudio("the stream is damaged, or holds no sound that can be decoded")
                out += piece
            if writable:
                try:
                    left = left[os.write(child.stdin.fileno(), left[:PIPE_BYTES]) :]
                except BrokenPipeError as error:
                    raise UndecodableAudio("the stream is damaged: its decoder gave up") from error
            if not ready and not writable:
                if left:
                    raise UndecodableAudio("the stream could not be decoded in time")
                break
        n_whole = len(out) - len(out) % 4
        self._rest = bytes(out[n_whole:])
        self._has_decoded = self._has_decoded or n_whole > 0
        return _samples(bytes(out[:n_whole]))


def _command(container: Container) -> list[str]:
    options: dict[str, Any] = {
        "f": container.demuxer,
        "format_whitelist": container.demuxer,
        "protocol_whitelist": "pipe",
        "codec_whitelist": CODECS,
        "threads": 1,
        "fflags": "nobuffer",
        "probesize": 512,
        "analyzeduration": 0,
    }
    output = {
        "f": "f32le",
        "acodec": "pcm_f32le",
        "ac": 1,
        "ar": SAMPLE_RATE,
        "flush_packets": 1,
        "threads": 1,
    }
    node = ffmpeg.input("pipe:0", **options)["a:0"].output("pipe:1", **output)
    arguments: list[str] = node.global_args("-nostdin", "-hide_banner", "-nostats", "-v", "quiet").compile(
        cmd=ffmpeg_binary()
    )
    return arguments


def _samples(raw: bytes) -> Samples:
    values: Samples = np.frombuffer(raw, "<f4").astype(np.float32)
    return without_wild_values(values)


def _end(child: subprocess.Popen[bytes]) -> int:
    """End a child; return its status, which is its own where it had ended by itself."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(0.1 if child.stdin is not None and child.stdin.closed else 0)
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None and not pipe.closed:
            pipe.close()
    status = child.wait()
    return max(0, status)  # below: killed
