"""Decode what libsndfile cannot read to blocks of float32, in a confined ffmpeg child process.

The child gets the file's bytes as an anonymous file and nothing else: one demuxer, only audio decoders, no
network, and limits on memory, processor time, wall time and written files. Knows no resampling, and no limit
on a recording's length.
"""

from __future__ import annotations

import math
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from serve.audio.clock import Clock, Reading
from serve.audio.container import Container
from serve.audio.framing import WavHeader, read_wav_header
from serve.audio.mixing import Layout
from serve.audio.recording import Track
from serve.audio.samples import Samples
from serve.audio.tracks import Listing, read_listing, wanted_tracks
from serve.errors import AudioTooLong, UndecodableAudio

PIPE_BYTES = 1 << 16  # one read from the child
CHECK_EVERY_S = 0.25  # while the child says nothing
BLOCK_BYTES = 1 << 20
MAX_OPEN_FILES = 64
MAX_LISTING_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 12
MAX_TRIED_TRACKS = 8
MAX_SILENT_VALUES = 1 << 30  # checked per track, over all channels, before trying the next: 3 h in stereo
LEAST_BYTES_PER_S = 64  # of encoded silence; AAC takes 250
FAINTEST = 1e-3  # of full scale: a track that stays below is silent

# For every frame, compute how far the clock is ahead of the sample count (1). If that has changed (2) by more
# than a tenth of a second, print it and the count (0). The samples stay as they are: none are dropped or
# added.
READ_CLOCK = (
    "st(1,PTS-ld(0));"
    "if(gt(abs(ld(1)-ld(2)),0.1*SR),st(2,print(ld(1)))+0*print(ld(0)));"
    "st(0,ld(0)+NB_SAMPLES)-NB_SAMPLES"
)
PRINTED_NUMBER = re.compile(rb"(?:\[Eval @ \w+\] )?(-?\d+\.\d{6})\r?")

# Allowed decoders. No video decoder, because ffmpeg probes all streams with their decoders.
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
    """Resource limits of one ffmpeg child."""

    timeout_s: float
    """Time spent waiting for its output, and processor time, before it is killed."""
    memory_bytes: int
    """Limit on the address space."""
    max_audio_s: float = math.inf
    """Longest recording; one whose container states a longer duration is not decoded."""


@dataclass(frozen=True)
class ChildOutput:
    """The sound that a child decodes."""

    sample_rate: int
    """Hz."""
    layout: Layout
    blocks: Iterator[Samples]
    """Each (n_frames, n_channels) float32, placed on the container's clock where it has one."""
    clock: Clock | None
    """None where the container has no clock."""
    track: Track | None
    """The decoded track; None where it is the only one and none was requested."""


@contextmanager
def open_with_ffmpeg(
    data: bytes,
    container: Container,
    limits: ChildLimits,
    *,
    track: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[ChildOutput]:
    """Decode one audio track of a file: the requested one, the default one, or the first with sound.

    Args:
        container: Names the only demuxer that may read it.
        limits: Limits of each child. With several tracks, one child per track may run, in turn.
        track: Number from 1, or language, of the track to decode.
        check: Called several times a second; raises once nobody waits for the recording any more.

    Raises:
        AudioTooLong: The container states a duration over the limit.
        UndecodableAudio: ffmpeg can decode no audio track, or took too long.
        UnsupportedOption: There is no such track.
    """
    n_bytes = len(data)
    with anonymous_file(data) as body, ExitStack() as stack:
        del data  # the file has a copy
        number = int(track) if track is not None and track.isdecimal() and 0 < int(track) < 100 else 1
        child = stack.enter_context(_started(body, container, limits, number, check))
        listing = child.listing()
        # Where a clock may start anywhere, the duration is a guess of ffmpeg's. Where the file is too small
        # to hold so much, most of it is a gap, which the clock passes over.
        is_sound = n_bytes > LEAST_BYTES_PER_S * listing.duration_s and not container.starts_anywhere
        if is_sound and listing.duration_s > limits.max_audio_s:
            raise AudioTooLong(listing.duration_s, limits.max_audio_s)
        tracks = listing.tracks
        chosen = None
        if len(tracks) > 1 or (tracks and track is not None):
            stack.close()  # children share one file position, so only one may read at a time
            chosen = _chosen(body, container, limits, wanted_tracks(tracks, track), check)
            child = stack.enter_context(_started(body, container, limits, chosen.number, check))
        yield _output(child, container, chosen)


def _output(child: Child, container: Container, track: Track | None) -> ChildOutput:
    header = child.header()
    if header is None:
        raise UndecodableAudio(f"the {container.name} recording holds no audio track that can be decoded")
    layout = Layout(header.n_channels, header.speaker_mask)
    blocks = child.blocks()
    if not container.has_clock:
        return ChildOutput(header.sample_rate, layout, blocks, None, track)
    start_s = child.listing().start_s if container.starts_anywhere else 0.0
    clock = Clock(header.sample_rate, start_s, child.readings)
    return ChildOutput(header.sample_rate, layout, clock.place(blocks), clock, track)


def _chosen(
    body: IO[bytes],
    container: Container,
    limits: ChildLimits,
    candidates: Sequence[Track],
    check: Callable[[], None],
) -> Track:
    """Return the first track that is not silent, or else the first."""
    if len(candidates) == 1:
        return candidates[0]
    for track in candidates[:MAX_TRIED_TRACKS]:
        with _started(body, container, limits, track.number, check) as child:
            if child.header() is None:
                continue  # an unsupported codec
            heard = 0
            for block in child.blocks():
                check()
                if np.abs(block).max() > FAINTEST:
                    return track
                heard += block.size
                if heard > MAX_SILENT_VALUES:
                    break
    return candidates[0]


@contextmanager
def _started(
    body: IO[bytes], container: Container, limits: ChildLimits, number: int, check: Callable[[], None]
) -> Iterator[Child]:
    body.seek(0)  # an earlier child may have read from this file
    process = subprocess.Popen(
        _command(container, number),
        stdin=body,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        restrict(process.pid, limits)
        yield Child(process, process.stdout, process.stderr, limits.timeout_s, check)
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def _command(container: Container, number: int) -> list[str]:
    # `file:/dev/stdin` can seek, `pipe:0` cannot; only containers that must seek may use the file protocol.
    source, protocol = ("file:/dev/stdin", "file") if container.needs_seeking else ("pipe:0", "pipe")
    options: dict[str, Any] = {
        "f": container.demuxer,
        "format_whitelist": container.demuxer,
        "protocol_whitelist": protocol,
        "codec_whitelist": CODECS,
        "threads": 1,
    }
    # WAV output: its header holds the speaker mask, and needs no seeking back.
    output = {"f": "wav", "acodec": "pcm_f32le", "map_metadata": -1, "threads": 1}
    if container.has_clock:
        options["copyts"] = None
        output["af"] = f"asetpts='{READ_CLOCK}'"
    node = ffmpeg.input(source, **options)[f"a:{number - 1}"].output("pipe:1", **output)
    arguments: list[str] = node.global_args(
        "-nostdin", "-hide_banner", "-nostats", "-v", "repeat+info"
    ).compile(cmd=ffmpeg_binary())
    return arguments


def ffmpeg_binary() -> str:
    """Return the ffmpeg on the PATH, or else the one in the imageio-ffmpeg wheel."""
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


@contextmanager
def anonymous_file(data: bytes) -> Iterator[IO[bytes]]:
    """Write bytes to a file without a name, in memory where the system supports that."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("audio", os.MFD_CLOEXEC), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    with file:
        file.write(data)
        file.seek(0)
        yield file


def restrict(pid: int, limits: ChildLimits) -> None:
    """Limit a running child from outside, because code between fork and exec is unsafe with threads."""
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


class Child:
    """A running child's standard output and standard error."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
        timeout_s: float,
        check: Callable[[], None],
    ):
        self.readings: deque[Reading] = deque()
        """Clock readings up to the sound that was read last."""
        self._process, self._stdout, self._stderr = process, stdout, stderr
        self._timeout_s = timeout_s
        self._check = check
        self._told = b""  # standard error, up to the size of a listing
        self._line = b""  # unfinished last line of standard error
        self._ahead: float | None = None  # first half of a reading
        self._pieces = self._read_output()
        self._head = b""
        os.set_blocking(stderr.fileno(), False)

    def listing(self) -> Listing:
        """Return ffmpeg's description of its input, once it has started to decode."""
        self.header()
        return read_listing(self._told.decode(errors="replace"))

    def header(self) -> WavHeader | None:
        """Return the header of the decoded sound; None where nothing is decoded."""
        while (header := read_wav_header(self._head)) is None and len(self._head) < PIPE_BYTES:
            if not (piece := next(self._pieces, b"")):
                return None
            self._head += piece
        return header

    def blocks(self) -> Iterator[Samples]:
        """Split the child's output into whole frames, in blocks of about 1 MB."""
        header = self.header()
        assert header is not None
        frame_bytes = 4 * max(1, header.n_channels)
        pending = bytearray(self._head[header.data_offset :])
        for piece in self._pieces:
            pending += piece
            if len(pending) >= BLOCK_BYTES:
                whole = len(pending) // frame_bytes * frame_bytes
                yield _frames(bytes(pending[:whole]), header.n_channels)
                del pending[:whole]
        whole = len(pending) // frame_bytes * frame_bytes
        if whole:
            yield _frames(bytes(pending[:whole]), header.n_channels)

    def _read_output(self) -> Iterator[bytes]:
        """Yield the child's output until it ends; raise if it fails after its first output.

        Only time spent waiting for the child counts: output that nobody has read yet does not make it slow.
        The child writes a reading before the sound it applies to, so standard error is read with each piece.
        """
        poll = select.poll()
        for pipe in (self._stdout, self._stderr):
            poll.register(pipe, select.POLLIN)
        has_begun = False
        waited_s = 0.0
        while True:
            started = time.monotonic()
            left_s = max(0.0, self._timeout_s - waited_s)
            ready = {fd for fd, _ in poll.poll(min(left_s, CHECK_EVERY_S) * 1000)}
            waited_s += time.monotonic() - started
            if not ready:
                self._check()
                if left_s <= CHECK_EVERY_S:
                    raise UndecodableAudio(f"the recording could not be decoded within {self._timeout_s:g} s")
                continue
            piece = os.read(self._stdout.fileno(), PIPE_BYTES) if self._stdout.fileno() in ready else None
            if not self._listen() and piece is None:
                poll.unregister(self._stderr)
            if piece is None:
                continue
            if not piece:
                if self._process.wait() != 0 and has_begun:  # a limit was hit, or the file is damaged
                    raise UndecodableAudio("the recording is damaged, or costs too much memory to decode")
                return
            has_begun = True
            yield piece

    def _listen(self) -> bool:
        """Read standard error as far as it has come; return whether more may follow."""
        while True:
            try:
                told = os.read(self._stderr.fileno(), PIPE_BYTES)
            except BlockingIOError:
                return True
            if not told:
                return False
            if len(self._told) < MAX_LISTING_BYTES:
                self._told += told
            *lines, self._line = (self._line + told).split(b"\n")
            self._line = self._line[-MAX_LINE_BYTES:]
            for line in lines:
                if number := PRINTED_NUMBER.fullmatch(line):
                    self._take_number(float(number[1]))

    def _take_number(self, number: float) -> None:
        if self._ahead is None:
            self._ahead = number
        else:
            self.readings.append(Reading(at=int(number), ahead=self._ahead))
            self._ahead = None


def _frames(raw: bytes, n_channels: int) -> Samples:
    return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(-1, n_channels)
