"""The WebSocket: settings, sound in any cut, text, the end; refusals, slow engines, leavers and shutdown."""

import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from serve.service.live.session import WAITING_S
from tests.waiting import wait_until

PATH = "/invocations-bidirectional-stream"
END = json.dumps({"type": "end"})


def pcm(samples):
    return (samples * 32_767).astype("<i2").tobytes()


@pytest.fixture
def dial():
    """Open streams: `dial(running, query="", **settings)`; they are closed in the end."""
    with ExitStack() as opened:

        def start(running, query="", **settings):
            host, port = running.address
            address = f"ws://{host}:{port}{PATH}{query}"
            connection = opened.enter_context(connect(address, ping_timeout=None))
            with suppress(ConnectionClosed):  # it may be refused before that
                connection.send(json.dumps(settings))
            return connection

        yield start


def hear_out(connection):
    """Return all frames until the close, and its code."""
    frames = []
    try:
        while True:
            frames.append(json.loads(connection.recv(timeout=60)))
    except ConnectionClosedOK as closed:
        return frames, closed.rcvd.code
    except ConnectionClosedError as closed:
        return frames, closed.rcvd.code


def error_of(frames):
    assert set(frames[-1]) == {"ModelStreamError"}
    return frames[-1]["ModelStreamError"]["ErrorCode"]


@pytest.mark.parametrize("end", [END, b""], ids=["end", "empty frame"])
def test_sound_in_odd_pieces_gives_final_text_and_a_close(shared, dial, speech, end):
    connection = dial(shared, sample_rate=16_000, encoding="pcm_s16le", language="mr")
    data = pcm(speech)
    for first in range(0, len(data), 4_001):
        connection.send(data[first : first + 4_001])
    connection.send(end)
    frames, code = hear_out(connection)
    final = frames[-1]
    assert code == 1000
    assert final["is_final"] and final["text"] == "श्रोता" and final["language"] == "mr"
    assert final["id"] == 0 and 0 < final["start"] < final["end"] < 5.1
    assert sum(frame["is_final"] for frame in frames) == 1


def test_options_travel_in_the_query_too(shared, dial, speech):
    connection = dial(shared, query="?language=hi&temperature=0.5")
    connection.send(pcm(speech))
    connection.send(END)
    frames, _ = hear_out(connection)
    assert frames[-1]["language"] == "hi"
    assert shared.engine.options[-1].temperature == 0.5


@pytest.mark.parametrize(
    ("first", "then", "code", "closed"),
    [
        (b"\x00\x00", None, "bad_request", 1008),
        ("no json", None, "bad_request", 1008),
        ("[]", None, "bad_request", 1008),
        ('{"sample_rate": 1}', None, "unsupported_option", 1008),
        ('{"language": "xx"}', None, "unsupported_option", 1008),
        ('{"beam_size": 5}', None, "unsupported_option", 1008),
        ('{"adapter": "other"}', None, "unsupported_option", 1008),
        ("{}", '{"type": "flush"}', "bad_request", 1008),
        ("{}", "}", "bad_request", 1008),
    ],
)
def test_what_is_wrong_is_an_error_frame_and_a_close_and_frees_the_place(shared, first, then, code, closed):
    with connect("ws://{}:{}".format(*shared.address) + PATH) as connection:
        connection.send(first)
        if then is not None:
            connection.send(then)
        frames, closing = hear_out(connection)
    assert (error_of(frames), closing) == (code, closed)
    wait_until(lambda: shared.service.n_admitted == 0)


def test_a_frame_over_the_limit_closes_the_stream(shared, dial):
    connection = dial(shared)
    # Its head says how long the frame is. With the rest on its way, a reset might overtake the answer.
    connection.socket.sendall(b"\x82\xff" + (1 << 21).to_bytes(8, "big") + bytes(4))
    assert hear_out(connection) == ([], 1009)
    wait_until(lambda: shared.service.n_admitted == 0)


def test_another_path_is_no_stream(shared):
    with pytest.raises(InvalidStatus), connect("ws://{}:{}/other".format(*shared.address)):
        pass


def test_one_stream_too_many_is_told_to_come_back(serve, dial):
    running = serve(max_requests=1)
    first = dial(running)
    first.send(b"\x00\x00")
    frames, code = hear_out(dial(running))
    assert (error_of(frames), code) == ("overloaded", 1013)
    first.send(END)
    assert hear_out(first) == ([], 1000)


def test_a_fault_of_the_engine_is_an_error_frame_without_its_reason(serve, dial, speech):
    running = serve()
    running.engine.fault = RuntimeError("secret of the kernel")
    connection = dial(running)
    connection.send(pcm(speech))
    connection.send(END)
    frames, code = hear_out(connection)
    assert (error_of(frames), code) == ("engine_error", 1011)
    assert "secret" not in json.dumps(frames)


def test_a_client_that_leaves_frees_its_place_and_its_thread(serve, dial, speech):
    running = serve(max_requests=1)
    running.engine.pace.clear()
    n_windows = len(running.engine.options)
    connection = dial(running)
    connection.send(pcm(speech))
    wait_until(lambda: len(running.engine.options) > n_windows)
    connection.close()
    wait_until(lambda: running.service.n_admitted == 0)
    running.engine.pace.set()
    second = dial(running)
    second.send(END)
    assert hear_out(second) == ([], 1000)


def test_a_client_that_is_faster_than_the_engine_is_slowed_down(serve, dial, speech):
    running = serve()
    running.engine.pace.clear()
    connection = dial(running)
    data = pcm(speech)
    n_bytes = 64 << 20  # more than the buffers of both sockets
    sent = threading.Event()

    def send():
        for _ in range(0, n_bytes, len(data)):
            connection.send(data)
        sent.set()

    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send)
        assert not sent.wait(timeout=2.0)
        (run,) = running.service.live.all
        assert run.session._sound.n_bytes < WAITING_S * 32_000 + len(data)
        connection.socket.shutdown(socket.SHUT_RDWR)  # a close frame would wait behind the sound
        with pytest.raises(ConnectionClosed):
            sending.result(timeout=60)
    running.engine.pace.set()


@pytest.mark.parametrize("send_settings", [True, False])
def test_a_stream_that_falls_silent_is_closed(serve, send_settings):
    running = serve(live_idle_timeout_s=0.3)
    with connect("ws://{}:{}".format(*running.address) + PATH) as connection:
        if send_settings:
            connection.send("{}")
        frames, code = hear_out(connection)
    assert (error_of(frames), code) == ("body_timeout", 1008)


def test_a_stream_over_its_time_gets_its_text_and_an_error(serve, dial, speech):
    running = serve(live_max_s=5.5)
    connection = dial(running)
    connection.send(pcm(np.tile(speech, 3)))
    frames, code = hear_out(connection)
    assert (error_of(frames), code) == ("audio_too_long", 1009)
    assert frames[-2]["is_final"]


def test_pings_are_answered(shared, dial):
    assert dial(shared).ping().wait(timeout=60)


def test_a_client_that_answers_no_pings_is_closed(serve, monkeypatch):
    monkeypatch.setattr("serve.http.server.PING_EVERY_S", 0.1)
    running = serve()
    with socket.create_connection(running.address, timeout=60) as connection:
        head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        connection.sendall((head + key).encode())
        received = b""
        while data := connection.recv(4_096):
            received += data
    _, _, frames = received.partition(b"\r\n\r\n")
    assert frames[:2] == b"\x89\x04"  # one ping of four bytes
    assert frames[6:7] == b"\x88" and frames[8:10] == (1011).to_bytes(2, "big")
    wait_until(lambda: running.service.n_admitted == 0)


FRAMES = st.one_of(
    st.binary(max_size=4_000),
    st.text(max_size=40),
    st.sampled_from([END, "{}", '{"type": "end", "x": 1}', '{"sample_rate": 48000, "channels": 2}']),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(FRAMES, max_size=6))
def test_whatever_comes_the_stream_ends_with_a_close_of_ours(shared, frames):
    with connect("ws://{}:{}".format(*shared.address) + PATH) as connection:
        with suppress(ConnectionClosed):
            for frame in [*frames, "{}", b""]:  # settings at the latest now, and then the end
                connection.send(frame)
        heard, code = hear_out(connection)
    assert (code, "ModelStreamError" in (heard or [{}])[-1]) in ((1000, False), (1008, True))
    wait_until(lambda: shared.service.n_admitted == 0)
    assert shared.client.get("/ping").status_code == 200


def test_shutdown_gives_open_streams_their_text_and_says_why(serve, dial, speech):
    running = serve(drain_s=4.0)
    connection = dial(running)
    connection.send(pcm(speech))
    wait_until(lambda: running.service.n_admitted == 1)
    running.server.handle_exit(signal.SIGTERM, None)
    frames, code = hear_out(connection)
    assert (error_of(frames), code) == ("not_ready", 1013)
    assert frames[-2]["is_final"] and frames[-2]["text"] == "श्रोता"
    running.thread.join(timeout=30)
    assert not running.thread.is_alive()


def test_shutdown_says_why_even_where_the_engine_hangs(serve, dial, speech):
    running = serve(drain_s=0.6)
    running.engine.pace.clear()
    n_windows = len(running.engine.options)
    connection = dial(running)
    connection.send(pcm(speech))
    wait_until(lambda: len(running.engine.options) > n_windows)
    running.server.handle_exit(signal.SIGTERM, None)
    frames, code = hear_out(connection)
    assert (error_of(frames), code) == ("not_ready", 1013)
    running.engine.pace.set()
