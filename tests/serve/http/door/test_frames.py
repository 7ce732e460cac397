"""WebSocket frames: small ones are joined, floods of them end the socket, and silence holds no place."""

import json
import time
from contextlib import ExitStack

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serve.http.door.frames import MAX_TINY_AT_ONCE, Allowance
from tests.waiting import wait_until

LIVE = "/invocations-bidirectional-stream"


@pytest.fixture
def dial():
    """Open a socket, its settings sent: `dial(running)`."""
    with ExitStack() as opened:

        def start(running, settings=True):
            host, port = running.address
            address = f"ws://{host}:{port}{LIVE}"
            stream = opened.enter_context(connect(address, ping_timeout=None, open_timeout=60))
            if settings:
                stream.send(json.dumps({"sample_rate": 16_000}))
            return stream

        yield start


def code_after(socket, send, n=MAX_TINY_AT_ONCE * 2) -> tuple[int, str]:
    """Send until the socket is closed; return code and reason."""
    with pytest.raises(ConnectionClosed) as closed:
        for _ in range(n):
            send()
        while True:
            socket.recv(timeout=30)
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("kind", ["bytes", "pings", "texts", "fragments"])
def test_a_flood_of_tiny_frames_closes_the_socket(shared, dial, kind):
    socket = dial(shared)
    send = {
        "bytes": lambda: socket.send(b"a"),
        "pings": lambda: socket.ping(),
        "texts": lambda: socket.send('{"type": "x"}'),
        "fragments": lambda: socket.send(iter([b"a"] * 10)),
    }[kind]
    code, reason = code_after(socket, send, MAX_TINY_AT_ONCE * (1 if kind == "fragments" else 2))
    assert code == 1008
    assert reason
    wait_until(lambda: shared.service.n_admitted == 0)


def test_sound_in_small_frames_is_heard_whole(shared, dial, speech):
    sound = (speech * 32_767).astype("<i2").tobytes()
    frames = [sound[at : at + 256] for at in range(0, len(sound), 256)]  # what a browser sends at a time
    socket = dial(shared)
    for frame in frames:
        socket.send(frame)
    socket.send(json.dumps({"type": "end"}))
    texts = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            texts.append(json.loads(socket.recv(timeout=60)))
    assert closed.value.rcvd.code == 1000
    assert "".join(each["text"] for each in texts if each["is_final"]).strip()


def test_frames_are_joined_before_the_session_hears_them(shared, dial, monkeypatch):
    from serve.service.live.session import LiveSession

    heard: list[int] = []
    hear = LiveSession.hear
    monkeypatch.setattr(
        LiveSession, "hear", lambda self, data: (heard.append(len(data)), hear(self, data))[1]
    )
    socket = dial(shared)
    silence = np.zeros(64, "<i2").tobytes()
    for _ in range(900):
        socket.send(silence)
    socket.send(json.dumps({"type": "end"}))
    with pytest.raises(ConnectionClosed):
        while True:
            socket.recv(timeout=60)
    assert sum(heard) == 900 * 128
    assert len(heard) < 450


def test_a_socket_without_settings_holds_no_place(serve, dial, speech_wav):
    running = serve(max_requests=1, head_timeout_s=0.5)
    silent = [dial(running, settings=False) for _ in range(4)]
    assert running.client.post("/invocations", content=speech_wav).status_code == 200
    for socket in silent:
        assert "ModelStreamError" in json.loads(socket.recv(timeout=30))
    assert running.service.n_admitted == 0


def test_silent_sockets_leave_places_to_short_requests(serve, dial, speech_wav):
    running = serve(max_requests=4)
    for _ in range(3):
        dial(running)
    wait_until(lambda: running.service.n_admitted == 3)
    assert "ModelStreamError" in json.loads(dial(running, settings=False).recv(timeout=30))
    assert running.client.post("/invocations", content=speech_wav).status_code == 200


def test_an_allowance_refills_with_time():
    allowance = Allowance(per_s=10, at_once=2)
    start = time.monotonic()
    assert [allowance.take(start) for _ in range(4)] == pytest.approx([0, 0, 0.1, 0.2])
    assert allowance.take(start + 0.4) == 0
