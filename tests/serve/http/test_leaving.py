"""Clients that leave in the middle of a long recording: its decoder ends with them, whatever the route."""

import socket
import subprocess
from contextlib import contextmanager

import httpx
import numpy as np
import psutil
import pytest
from websockets.sync.client import connect

from serve.audio.caged.ffmpeg import ffmpeg_binary
from tests.waiting import wait_until

JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"
OPENAI = {"model": "whisper-1"}
ENOUGH_S = 20.0
"""Less than the engine's pause of 30 s, after which the request would end by itself."""


def encoded(speech: np.ndarray, *options: str) -> bytes:
    """Return ten minutes of speech: far more than any pipe or queue holds."""
    sound = (np.tile(speech, 120) * 32_767).astype("<i2").tobytes()
    command = [ffmpeg_binary(), "-v", "error", "-f", "s16le", "-ar", "16000", "-i", "pipe:0", *options]
    return subprocess.run([*command, "pipe:1"], input=sound, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def recordings(speech):
    """The same for either decoder."""
    return {
        "ffmpeg": encoded(speech, "-c:a", "adpcm_ima_wav", "-f", "matroska"),
        "sndfile": encoded(speech, "-c:a", "pcm_s16le", "-f", "wav"),
    }


def decoders() -> set[int]:
    """Return the decoding processes of this one: ffmpeg, and those forked within libsndfile's cage."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command, parent = " ".join(child.cmdline()), child.parent()
            is_forked = "sndfile_child" in command and "sndfile_child" in " ".join(parent.cmdline())
        except (psutil.Error, AttributeError):  # it has ended, or its parent has
            continue
        if is_forked or "ffmpeg" in command.partition(" ")[0]:
            found.add(child.pid)
    return found


@contextmanager
def held(serve):
    """A service with one place whose engine is paused, so that a recording keeps its decoder."""
    running = serve(max_requests=1)
    running.engine.pace.clear()
    yield running
    wait_until(lambda: running.service.n_admitted == 0, ENOUGH_S)
    wait_until(lambda: not decoders(), ENOUGH_S)
    running.engine.pace.set()
    assert running.client.post("/invocations", content=b"RIFF").status_code == 415


@pytest.mark.parametrize("decoder", ["ffmpeg", "sndfile"])
@pytest.mark.parametrize(
    ("path", "accept", "fields"),
    [
        ("/invocations", JSON, None),
        ("/invocations", NDJSON, None),
        ("/invocations", SSE, None),
        ("/invocations", JSON, {}),
        ("/v1/audio/transcriptions", "*/*", OPENAI),
        ("/v1/audio/transcriptions", "*/*", {**OPENAI, "stream": "true"}),
        ("/v1/audio/translations", "*/*", OPENAI),
    ],
    ids=("plain", "lines", "SSE", "form", "OpenAI", "OpenAI's stream", "translation"),
)
def test_the_decoder_of_a_recording_ends_with_its_client(serve, recordings, decoder, path, accept, fields):
    sound = recordings[decoder]
    body = {"content": sound} if fields is None else {"data": fields, "files": {"file": sound}}
    request = httpx.Request("POST", f"http://x{path}", headers={"Accept": accept}, **body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with held(serve) as running:
        n_windows = len(running.engine.options)
        with socket.create_connection(running.address, timeout=60) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            wait_until(lambda: len(running.engine.options) > n_windows)
            assert running.service.n_admitted == 1
            assert decoders()


def test_a_client_that_leaves_with_a_further_request_behind_ends_the_first(serve, recordings):
    sound = recordings["sndfile"]
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sound)}\r\n\r\n"
    with held(serve) as running:
        n_windows = len(running.engine.options)
        with socket.create_connection(running.address, timeout=60) as connection:
            connection.sendall(head.encode() + sound + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: len(running.engine.options) > n_windows)
            assert running.service.n_admitted == 1


@pytest.mark.parametrize("path", ["/live?format=container", "/v1/listen"])
def test_the_decoder_of_a_live_stream_ends_with_its_client(serve, speech, path):
    sound = encoded(speech, "-c:a", "libopus", "-f", "webm")
    with held(serve) as running:
        n_windows = len(running.engine.options)
        address = "ws://{}:{}".format(*running.address) + path
        with connect(address, ping_timeout=None, close_timeout=1) as link:
            for at in range(0, 200_000, 4_000):  # a minute: the rest would wait for the engine
                link.send(sound[at : at + 4_000])
            wait_until(lambda: len(running.engine.options) > n_windows)
            assert decoders()
