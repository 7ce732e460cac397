"""SIGTERM while many clients are served: each gets its text or an error event, and the end comes in time."""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
import wave
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

SERVICE = Path(__file__).parent / "paced_service.py"
N_CLIENTS = 5
NDJSON = {"accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def several_windows(speech_wav):
    """Four times the speech, with pauses of two seconds."""
    out = io.BytesIO()
    with wave.open(io.BytesIO(speech_wav)) as source, wave.open(out, "wb") as target:
        target.setparams(source.getparams())
        clip = source.readframes(source.getnframes())
        target.writeframes((clip + bytes(2 * 16_000 * 2)) * 4)
    return out.getvalue()


@contextmanager
def streams_after_sigterm(start_child, go_on, drain_s, wav):
    """Start streams from a service that waits for the file `go_on`, and stop it while they run.

    Gives the child, a client of it, and for each stream the events that are still to come.
    """
    child = start_child(
        sys.executable, SERVICE, go_on, "1", "--drain-s", str(drain_s), "--max-batch-windows", "1"
    )
    with ExitStack() as stack:
        client = stack.enter_context(child.client())
        child.wait_for("model.ready")
        streams = []
        for _ in range(N_CLIENTS):
            answer = stack.enter_context(client.stream("POST", "/invocations", content=wav, headers=NDJSON))
            streams.append(map(json.loads, answer.iter_lines()))
            assert next(streams[-1])["type"] == "start"
        child.process.send_signal(signal.SIGTERM)
        child.wait_for("service.draining")
        yield child, client, streams
    assert child.process.wait(timeout=25) == 0  # SIGKILL comes 30 s after SIGTERM
    assert child.finish() == 0


def test_after_sigterm_every_stream_is_finished_while_ping_and_newcomers_are_refused(
    start_child, tmp_path, several_windows
):
    go_on = tmp_path / "go-on"
    with streams_after_sigterm(start_child, go_on, 20, several_windows) as (_, client, streams):
        for answer in (client.get("/ping"), client.post("/invocations", content=several_windows)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        go_on.touch()
        for events in streams:
            *_, last = events
            assert (last["type"], last["n_segments"]) == ("end", 4)


def test_a_stream_that_cannot_be_finished_in_time_ends_with_an_error(start_child, tmp_path, several_windows):
    # The engine never comes back from its window, and is not waited for.
    never = tmp_path / "never"
    with streams_after_sigterm(start_child, never, 0.5, several_windows) as (_, _, streams):
        for events in streams:
            *_, last = events
            assert (last["type"], last["error"]["code"]) == ("error", "not_ready")


def test_a_client_that_is_still_sending_at_sigterm_is_served_too(start_child, tmp_path, several_windows):
    go_on = tmp_path / "go-on"
    go_on.touch()
    child = start_child(sys.executable, SERVICE, go_on, "0", "--drain-s", "20")
    with child.client() as client:
        child.wait_for("model.ready")
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=60) as connection:
            half = len(several_windows) // 2
            head = "POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            connection.sendall(f"{head}Content-Length: {len(several_windows)}\r\n\r\n".encode())
            connection.sendall(several_windows[:half])
            for _ in range(3):  # read, so the head that was sent before is read too
                assert client.get("/ping").status_code == 200
            child.process.send_signal(signal.SIGTERM)
            child.wait_for("service.draining")
            connection.sendall(several_windows[half:])
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200") and b'"text":"x x x x"' in answer
    assert child.process.wait(timeout=25) == 0


def test_an_idle_service_ends_with_status_0(start_child, tmp_path):
    child = start_child(sys.executable, SERVICE, tmp_path / "never", "0")
    child.wait_for("model.ready")
    child.process.send_signal(signal.SIGTERM)
    assert child.finish() == 0


def test_ping_is_503_while_the_engine_does_not_answer(start_child, tmp_path, several_windows):
    go_on = tmp_path / "go-on"
    child = start_child(sys.executable, SERVICE, go_on, "0", "--engine-timeout-s", "0.2")
    with child.client() as client:
        child.wait_for("model.ready")
        with client.stream("POST", "/invocations", content=several_windows, headers=NDJSON) as answer:
            events = map(json.loads, answer.iter_lines())
            assert next(events)["type"] == "start"
            while client.get("/ping").status_code == 200:
                pass
            assert client.get("/ping").status_code == 503
            go_on.touch()
            assert [event["type"] for event in events][-1] == "end"
        assert client.get("/ping").status_code == 200
