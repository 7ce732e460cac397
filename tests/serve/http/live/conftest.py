"""A client of live sockets, and sound as clients send it."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serve.audio.caged.ffmpeg import ffmpeg_binary


class Dialled:
    """A connection to /live."""

    def __init__(self, connection) -> None:
        self.connection = connection
        self.frames: list[dict] = []
        self.code: int | None = None

    def next(self) -> dict:
        self.frames.append(json.loads(self.connection.recv(timeout=60)))
        return self.frames[-1]

    def until(self, kind: str) -> dict:
        while self.next()["type"] != kind:
            pass
        return self.frames[-1]

    def tell(self, kind: str) -> None:
        self.connection.send(json.dumps({"type": kind}))

    def hear(self, data: bytes, piece: int = 4_001) -> None:
        for first in range(0, len(data), piece):
            self.connection.send(data[first : first + piece])

    def rest(self) -> list[dict]:
        """Return all frames once the service has closed."""
        try:
            while True:
                self.next()
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else None
        return self.frames

    def cut(self) -> None:
        """Lose the connection, without a close frame."""
        self.connection.socket.close()


@pytest.fixture
def dial():
    """Open live streams: `dial(running, path="/live", **query)`; they are closed in the end."""
    with ExitStack() as opened:

        def start(running, path="/live", **query):
            host, port = running.address
            address = f"ws://{host}:{port}{path}?{urlencode(query)}"
            return Dialled(opened.enter_context(connect(address, ping_timeout=None)))

        yield start


@pytest.fixture(scope="session")
def pcm(speech) -> bytes:
    """The speech, and two seconds of silence, as 16-bit samples."""
    return (speech * 32_767).astype("<i2").tobytes() + bytes(2 * 2 * 16_000)


@pytest.fixture(scope="session")
def recorded(pcm):
    """The same as a browser's MediaRecorder sends it: `recorded("webm")` or `recorded("ogg")`."""

    def encode(container: str) -> bytes:
        own = {"webm": ["-cluster_time_limit", "250"], "ogg": ["-page_duration", "250000"]}[container]
        command = [ffmpeg_binary(), "-v", "error", "-f", "s16le", "-ar", "16000", "-i", "pipe:0"]
        command += ["-c:a", "libopus", "-b:a", "24k", *own, "-f", container, "pipe:1"]
        return subprocess.run(command, input=pcm, capture_output=True, check=True).stdout

    return encode
