"""The cage of libsndfile: a small process that forks itself for every file.

    python -P sndfile_child.py      # standard input is a socket, on which files and pipes arrive

Starting a decoder from nothing takes 80 ms, and forking one that is ready 2 ms. The process that forks reads
no file itself, so a file finds nothing of another one. It ends with its parent, whose end of the socket is
then closed. It imports nothing of ours: it is started by its path.

A pipe carries a header, then blocks, each with its size before it; the size 0 tells that the file is over,
and `DAMAGED` that it is damaged. A pipe that ends otherwise tells that its process was ended.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import struct

import soundfile

HEADER = struct.Struct("<IIQ")
"""Sample rate in Hz, channels, frames as the file declares them; all 0 where libsndfile cannot read it."""

SIZE = struct.Struct("<I")
DAMAGED = 0xFFFF_FFFF
MAX_BLOCK_VALUES = 2_000_000
"""Most values of a block, over all channels."""


def main() -> None:
    """Fork for every file that arrives, until the parent is gone."""
    control = socket.socket(fileno=0)
    gc.disable()
    gc.freeze()  # a collection would touch, and so copy, all memory of a fork
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4_096, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _decode(*fds, **json.loads(message))
            os._exit(0)
        for fd in fds:
            os.close(fd)
        # The pidfd lets the parent end this process and no other, whatever number it has.
        handles = [os.pidfd_open(pid)] if hasattr(os, "pidfd_open") else []
        socket.send_fds(control, [b"."], handles)
        for fd in handles:
            os.close(fd)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _decode(body: int, out: int, *, memory_bytes: int, processor_s: int, block_s: float) -> None:
    """Write a file's header and samples to a pipe."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),  # what is open stays open, and nothing else can be: no file, no socket
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        file = _ForwardOnly(body, closefd=False)
    except soundfile.SoundFileError:
        os.write(out, HEADER.pack(0, 0, 0))
        return
    os.write(out, HEADER.pack(file.samplerate, file.channels, max(0, file.frames)))
    n_values = min(int(block_s * file.samplerate), MAX_BLOCK_VALUES)
    block_frames = max(1, n_values // file.channels)
    while True:
        try:
            block = memoryview(file.read(block_frames, dtype="float32", always_2d=True).tobytes())
        except soundfile.SoundFileError:
            os.write(out, SIZE.pack(DAMAGED))
            return
        os.write(out, SIZE.pack(len(block)))
        if not block:
            return
        while block:
            block = block[os.write(out, block) :]


class _ForwardOnly(soundfile.SoundFile):  # type: ignore[misc]
    """Reads front to back: soundfile otherwise seeks after every read, which is slow and disturbs MP3."""

    def seekable(self) -> bool:
        return False


if __name__ == "__main__":
    main()
