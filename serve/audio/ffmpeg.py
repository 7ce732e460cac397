"""Whatever libsndfile cannot read -> blocks of float32, by an ffmpeg child process on a short leash.

The child gets the body as an anonymous file and nothing else: one demuxer, audio decoders only, no network,
limits on memory, processor time, written files and our patience. Knows nothing of resampling, nor of how
long audio may be.
"""

from __future__ import annotations

import math
import os
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from serve.audio.container import Container
from serve.audio.samples import Samples
from serve.errors import UndecodableAudio

PIPE_BYTES = 1 << 16  # one read from the child
AU_HEADER = struct.Struct(">4s5I")  # magic, data offset, data bytes, encoding, sample rate, channels
AU_FLOAT = 6
MAX_OPEN_FILES = 64

# Decoders that may run. No video decoder: streams are probed with their decoders even when nobody wants them.
CODECS = ",".join(
    (
        "aac,aac_fixed,aac_latm,ac3,ac3_fixed,eac3,alac,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,flac,g722,g723_1",
        "g726,g729,gsm,gsm_ms,libgsm,libgsm_ms,mp1,mp1float,mp2,mp2float,mp3,mp3float,libopus,opus,libspeex,speex,tta",
        "libvorbis,vorbis,wavpack,wmav1,wmav2,wmapro,wmalossless,wmavoice,adpcm_ima_wav,adpcm_ms,adpcm_yamaha",
        "adpcm_ima_qt,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be",
        "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be",
    )
)


@dataclass(frozen=True, kw_only=True)
class ChildLimits:
    """What one ffmpeg child may use."""

    timeout_s: float
    """Wall time that we wait for its output, and processor time, before it is killed."""
    memory_bytes: int
    """Address space."""


@contextmanager
def open_with_ffmpeg(
    data: bytes, container: Container, limits: ChildLimits
) -> Iterator[tuple[int, int, Iterator[Samples]]]:
    """Decode the first audio track of a body.

    Yields:
        sample_rate (Hz), n_channels, and an iterator of blocks (n_frames, n_channels) float32.

    Raises:
        UndecodableAudio: there is no audio track that ffmpeg can read, or it took too long.
    """
    with _anonymous_file(data) as body:
        del data  # the file holds it now
        child = subprocess.Popen(
            _command(container),
            stdin=body,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            cwd="/",
            start_new_session=True,
        )
    assert child.stdout is not None
    try:
        _restrict(child.pid, limits)
        pieces = _read_output(child, child.stdout, limits.timeout_s)
        head = b""
        while len(head) < AU_HEADER.size and (piece := next(pieces, b"")):
            head += piece
        if len(head) < AU_HEADER.size:
            raise UndecodableAudio(f"the {container.name} recording holds no audio track that can be decoded")
        _, offset, _, encoding, sample_rate, n_channels = AU_HEADER.unpack_from(head)
        assert encoding == AU_FLOAT
        yield sample_rate, n_channels, _blocks(head, pieces, offset, n_channels)
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def _command(container: Container) -> list[str]:
    # `file:/dev/stdin` can seek, `pipe:0` cannot; only containers that must seek may use the file protocol.
    source, protocol = ("file:/dev/stdin", "file") if container.needs_seeking else ("pipe:0", "pipe")
    options: dict[str, Any] = {
        "f": container.demuxer,
        "format_whitelist": container.demuxer,
        "protocol_whitelist": protocol,
        "codec_whitelist": CODECS,
        "threads": 1,
    }
    # AU: the simplest header that tells sample rate and channels and needs no seeking back.
    output = {"f": "au", "acodec": "pcm_f32be", "map_metadata": -1, "threads": 1}
    node = ffmpeg.input(source, **options)["a:0"].output("pipe:1", **output)
    arguments: list[str] = node.global_args("-nostdin", "-hide_banner", "-v", "quiet").compile(
        cmd=ffmpeg_binary()
    )
    return arguments


def ffmpeg_binary() -> str:
    """Return the ffmpeg on the PATH, or else the one inside the imageio-ffmpeg wheel."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


@contextmanager
def _anonymous_file(data: bytes) -> Iterator[IO[bytes]]:
    """Hold the body in a file without a name, in memory where the system can."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("audio", os.MFD_CLOEXEC), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    with file:
        file.write(data)
        file.seek(0)
        yield file


def _restrict(pid: int, limits: ChildLimits) -> None:
    """Limit a running child; from outside, because code between fork and exec is unsafe beside threads."""
    if sys.platform != "linux":
        return
    processor_s = math.ceil(limits.timeout_s)
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
    ):
        try:
            resource.prlimit(pid, kind, (limit, limit))
        except ProcessLookupError:
            return  # it has ended already


def _read_output(child: subprocess.Popen[bytes], stdout: IO[bytes], timeout_s: float) -> Iterator[bytes]:
    """Yield what the child writes until it ends; refuse the rest if it ended badly after it had begun.

    Only the time spent waiting for it counts: a child whose output nobody fetches yet is not slow.
    """
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    has_begun = False
    waited_s = 0.0
    while True:
        started = time.monotonic()
        if not poll.poll(max(0.0, timeout_s - waited_s) * 1000):
            raise UndecodableAudio(f"the recording could not be decoded within {timeout_s:g} s")
        waited_s += time.monotonic() - started
        piece = os.read(stdout.fileno(), PIPE_BYTES)
        if not piece:
            if child.wait() != 0 and has_begun:  # a limit, or more damage than it bears
                raise UndecodableAudio("the recording is damaged, or costs too much memory to decode")
            return
        has_begun = True
        yield piece


def _blocks(head: bytes, pieces: Iterator[bytes], offset: int, n_channels: int) -> Iterator[Samples]:
    """Cut the child's output into whole frames, in blocks of about a megabyte."""
    frame_bytes = 4 * n_channels
    pending = bytearray(head)
    skip = offset
    for piece in pieces:
        pending += piece
        if len(pending) - skip >= 1 << 20:
            whole = (len(pending) - skip) // frame_bytes * frame_bytes
            yield _frames(bytes(pending[skip : skip + whole]), n_channels)
            del pending[: skip + whole]
            skip = 0
    whole = max(0, len(pending) - skip) // frame_bytes * frame_bytes
    if whole:
        yield _frames(bytes(pending[skip : skip + whole]), n_channels)


def _frames(raw: bytes, n_channels: int) -> Samples:
    return np.frombuffer(raw, dtype=">f4").astype(np.float32).reshape(-1, n_channels)
