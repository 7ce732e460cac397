"""Loading, overload, faults, clients that leave, and the end."""

import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile

from serve.errors import ArtifactError
from tests.waiting import wait_until

INVOCATIONS = "/invocations"
NDJSON = {"accept": "application/x-ndjson"}


@pytest.fixture
def long_wav(speech_wav):
    """Three times the speech: several windows."""
    import io
    import wave

    out = io.BytesIO()
    with wave.open(io.BytesIO(speech_wav)) as source, wave.open(out, "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(source.getnframes()) * 3)
    return out.getvalue()


@pytest.fixture
def pool():
    with ThreadPoolExecutor() as pool:
        yield pool


def test_the_port_answers_503_while_the_model_loads_and_200_after(serve, speech_wav):
    loaded = threading.Event()
    pipelines = []

    def load(settings):
        assert loaded.wait(timeout=30)
        return pipelines[0]

    running = serve(load, ready=False)
    try:
        waiting = running.client.get("/ping")
        assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "not_ready")
        assert int(waiting.headers["retry-after"]) > 0
        assert running.client.post(INVOCATIONS, content=speech_wav).status_code == 503
    finally:
        from serve.pipeline import Pipeline

        class Frames:
            def log_mel(self, samples, window_s):
                return np.zeros((80, round(window_s * 100)), np.float32)

        pipelines.append(Pipeline(running.engine, Frames()))
        loaded.set()
    wait_until(lambda: running.client.get("/ping").status_code == 200)
    assert running.client.get("/ping").content == b""
    assert running.engine.options, "the model has decoded a window before it was called ready"


def test_others_are_answered_while_the_engine_is_asked_what_it_supports(serve, speech_wav, pool, monkeypatch):
    running = serve(stateful_sessions=True)
    asked, may_answer = threading.Event(), threading.Event()

    def unsupported(options):
        asked.set()
        may_answer.wait(timeout=20)

    monkeypatch.setattr(running.engine, "unsupported", unsupported)
    for body in ({"content": speech_wav}, {"json": {"requestType": "NEW_SESSION"}}):
        answer = pool.submit(running.client.post, INVOCATIONS, **body)
        assert asked.wait(timeout=20)
        assert running.client.get("/ping", timeout=10).status_code == 200
        may_answer.set()
        assert answer.result().status_code == 200
        asked.clear()
        may_answer.clear()
    assert running.service.n_admitted == 0


def test_a_model_that_cannot_be_loaded_stops_the_server(serve, tmp_path):
    listening = threading.Event()

    def load(settings):
        assert listening.wait(timeout=30)
        raise ArtifactError(tmp_path / "manifest.json", "the file is missing")

    running = serve(load, ready=False)
    listening.set()
    running.thread.join(timeout=30)
    assert not running.thread.is_alive()
    assert "manifest.json" in str(running.service.failure)


def test_one_request_too_many_is_429_and_the_ping_still_answers(serve, pool, speech_wav):
    running = serve(max_requests=1)
    running.engine.pace.clear()
    first = pool.submit(running.client.post, INVOCATIONS, content=speech_wav)
    wait_until(lambda: running.service.n_admitted == 1)
    refused = running.client.post(INVOCATIONS, content=speech_wav)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    assert running.client.get("/ping").status_code == 200
    running.engine.pace.set()
    assert first.result().status_code == 200
    assert running.client.post(INVOCATIONS, content=speech_wav).status_code == 200


def test_a_fault_of_the_engine_is_500_without_its_reason(serve, speech_wav):
    running = serve()
    running.engine.fault = RuntimeError("secret of the kernel")
    response = running.client.post(INVOCATIONS, content=speech_wav)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_error")
    assert "secret" not in response.text
    running.engine.fault = None
    assert running.client.post(INVOCATIONS, content=speech_wav).status_code == 200


def test_a_fault_after_the_start_is_the_last_event_of_the_stream(serve, speech_wav):
    running = serve()
    running.engine.fault = RuntimeError("secret of the kernel")
    response = running.client.post(INVOCATIONS, content=speech_wav, headers=NDJSON)
    start, error = map(json.loads, response.text.splitlines())
    assert (response.status_code, start["type"], error["type"]) == (200, "start", "error")
    assert error["error"]["code"] == "engine_error"
    assert "secret" not in response.text


def test_a_fault_of_ours_is_500_without_a_traceback(serve, speech_wav):
    running = serve()
    running.service.transcribe = None  # calling it raises TypeError
    response = running.client.post(INVOCATIONS, content=speech_wav)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "NoneType" not in response.text
    assert running.service.n_admitted == 0


def test_the_start_comes_before_any_window_is_decoded(serve, long_wav):
    running = serve()
    running.engine.pace.clear()
    with running.client.stream("POST", INVOCATIONS, content=long_wav, headers=NDJSON) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["type"] == "start"
        running.engine.pace.set()
        types = [json.loads(line)["type"] for line in lines]
    assert types[-1] == "end"
    assert types.count("segment") > 1


@pytest.mark.parametrize(
    ("path", "accept", "fields"),
    [
        (INVOCATIONS, "application/json", None),
        (INVOCATIONS, "application/x-ndjson", None),
        (INVOCATIONS, "text/event-stream", None),
        (INVOCATIONS, "application/json", {}),
        ("/v1/audio/transcriptions", "*/*", {"model": "whisper-1"}),
        ("/v1/audio/transcriptions", "*/*", {"model": "whisper-1", "stream": "true"}),
        ("/v1/audio/translations", "*/*", {"model": "whisper-1"}),
    ],
)
def test_a_client_that_leaves_frees_its_place_while_the_engine_is_busy(
    serve, speech_wav, path, accept, fields
):
    running = serve(max_requests=1)
    n_windows = len(running.engine.options)
    running.engine.pace.clear()
    body = {"content": speech_wav} if fields is None else {"data": fields, "files": {"file": speech_wav}}
    request = httpx.Request("POST", f"http://x{path}", headers={"Accept": accept}, **body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        wait_until(lambda: len(running.engine.options) > n_windows)
        assert running.service.n_admitted == 1
    wait_until(lambda: running.service.n_admitted == 0)
    running.engine.pace.set()
    assert running.client.post(INVOCATIONS, content=speech_wav).status_code == 200


def test_a_client_that_leaves_in_mid_body_leaves_nothing_behind(serve):
    running = serve(max_requests=1)
    arriving = running.server.config.app._app.state.arriving
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nRIFF")
        wait_until(lambda: arriving.n_bytes == 4)
        assert running.service.n_admitted == 0
    wait_until(lambda: arriving.n_bytes == 0)


def test_an_engine_that_hangs_is_seen_by_the_ping(serve, pool, speech_wav):
    running = serve(engine_timeout_s=0.2)
    running.engine.pace.clear()
    waiting = pool.submit(running.client.post, INVOCATIONS, content=speech_wav)
    wait_until(lambda: running.client.get("/ping").status_code == 503)
    running.engine.pace.set()
    assert waiting.result().status_code == 200
    wait_until(lambda: running.client.get("/ping").status_code == 200)


def test_a_request_over_its_time_is_504_or_the_last_event_of_its_stream(serve, speech_wav):
    running = serve(request_timeout_s=0.5)
    running.engine.pace.clear()
    response = running.client.post(INVOCATIONS, content=speech_wav)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "request_timeout")
    response = running.client.post(INVOCATIONS, content=speech_wav, headers=NDJSON)
    start, error = map(json.loads, response.text.splitlines())
    assert (start["type"], error["error"]["code"]) == ("start", "request_timeout")
    assert running.service.n_admitted == 0
    running.engine.pace.set()


def test_a_client_that_leaves_stops_the_decoding_of_a_recording_without_speech(serve):
    running = serve(max_requests=1)
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", samplerate=16_000, channels=1, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros(60 * 16_000, np.int16))
    body = out.getvalue()
    with socket.create_connection(running.address, timeout=30) as connection:
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nAccept: {NDJSON['accept']}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while b'"type":"start"' not in received:
            received += connection.recv(4_096)
        assert running.service.n_admitted == 1
    wait_until(lambda: running.service.n_admitted == 0)
    # The thread that read three hours of silence is free again: the next request runs in it.
    assert running.client.post(INVOCATIONS, content=b"RIFF").status_code == 415
