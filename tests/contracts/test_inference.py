"""What SageMaker demands of an inference container, shown on the image's own entry point in a child process.

The tree of /opt/ml is a temporary directory, the model in it a random one of two layers; ports, signals and
sockets are real. Elsewhere: loading, a hanging engine, overload and faults in tests/serve/http/test_life.py;
bodies, statuses and formats in test_invocations.py beside it; figures and limits in test_metrics.py; drained
and broken streams in tests/serve/test_main.py; the requests that make endpoints in test_deploy.py beside it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from serve.http.server import CONNECTIONS_CLOSE_S
from serve.http.service import ENGINE_CLOSES_S, LAST_WORDS_S
from serve.settings import Settings

ROOT = Path(__file__).parents[2]
NDJSON = {"accept": "application/x-ndjson"}
STOP_S = 25.0  # of the 30 s between SIGTERM and SIGKILL


@dataclass
class Container:
    """A container that serves: its directories, process and port."""

    tmp_dir: Path
    watched: Any
    child: Any
    port: int
    client: httpx.Client
    pings: list[int] = field(default_factory=list)
    """Statuses of /ping from the first that answered to the first 200."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def run_image(child, watch, tiny_artifact_dir, tiny_base_dir, tmp_path_factory):
    """Return a function that starts the image's `serve` as SageMaker does."""
    root = tmp_path_factory.mktemp("container")
    model_dir = root / "ml" / "model"
    shutil.copytree(tiny_artifact_dir, model_dir)
    shutil.copytree(tiny_base_dir, model_dir / "base")  # an isolated endpoint can fetch none
    (root / "tmp").mkdir()
    watched = watch(root / "watch", root / "tmp")
    for path in (*model_dir.rglob("*"), model_dir):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def run(**environ: str) -> Container:
        port = free_port()
        started = child(
            *(ROOT / "docker" / "entrypoint.sh", "serve"),
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **watched.environ,
            TMPDIR=str(root / "tmp"),
            SAGEMAKER_BIND_TO_PORT=str(port),
            SAGEMAKER_SAFE_PORT_RANGE=f"{port}-{port}",
            SHROTA_MODEL_DIR=str(model_dir),
            SHROTA_N_THREADS="1",
            **environ,
        )
        address = f"http://127.0.0.1:{port}"
        return Container(
            root / "tmp", watched, started, port, httpx.Client(base_url=address, timeout=600, trust_env=False)
        )

    yield run
    for path in (model_dir, *model_dir.rglob("*")):
        path.chmod(0o755)


@pytest.fixture(scope="module")
def container(run_image) -> Iterator[Container]:
    """One container for all tests that leave it as it was; told of a batch, like any other."""
    container = run_image(SAGEMAKER_BATCH="TRUE")
    with container.child, container.client:
        container.child.wait_for("service.listening")
        while container.pings[-1:] != [200]:
            assert container.child.process.poll() is None, container.child.finish()
            container.pings.append(container.client.get("/ping").status_code)
        container.child.wait_for("model.ready")
        yield container


def test_the_port_is_the_one_that_the_platform_gives_and_the_only_one(container):
    listening = [line for line in container.child.log if line["event"] == "service.listening"]
    assert [line["address"] for line in listening] == [f"0.0.0.0:{container.port}"]


def test_the_ping_is_503_while_loading_then_200_with_an_empty_body(container):
    *before, ready = container.pings
    assert ready == 200 and set(before) <= {503}
    answer = container.client.get("/ping")
    assert (answer.status_code, answer.content) == (200, b"")


def test_pings_are_answered_all_the_while_a_recording_is_read_and_transcribed(container, several_windows):
    body = json.dumps({"audio": base64.b64encode(several_windows).decode()}).encode()
    headers = {"content-type": "application/json"}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(container.client.post, "/invocations", content=body, headers=headers)
        pings = []
        while not answer.done():
            with socket.create_connection(("127.0.0.1", container.port), timeout=60) as connection:
                connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                pings.append(connection.recv(4_096).split()[1])
    assert answer.result().json()["text"]
    assert len(pings) > 5 and set(pings) == {b"200"}  # were the loop held up: one before and one after


def test_custom_attributes_are_echoed_and_unknown_headers_make_no_difference(container, speech_wav):
    attributes = "trace-7;language=hi"
    headers = {
        "X-Amzn-SageMaker-Custom-Attributes": attributes,
        "X-Amzn-SageMaker-Something-New": "1",
        "X-Language": "klingon",
    }
    answer = container.client.post("/invocations", content=speech_wav, headers=headers)
    assert (answer.status_code, answer.json()["language"]) == (200, "hi")
    assert answer.headers["x-amzn-sagemaker-custom-attributes"] == attributes
    bare = container.client.post("/invocations", content=speech_wav)
    assert "x-amzn-sagemaker-custom-attributes" not in bare.headers


def test_a_body_of_25_mb_is_read_without_any_setting(container):
    out = io.BytesIO()
    silence = np.zeros((2 * 192_000 + 40_000, 16), np.float32)  # the most bytes that a second can have
    soundfile.write(out, silence, 192_000, format="WAV", subtype="FLOAT")
    body = out.getvalue()
    assert len(body) > 25 * 2**20
    assert container.client.post("/invocations", content=body).json()["text"] == ""


def test_a_longer_body_than_the_limit_is_413_before_it_is_sent(container):
    with socket.create_connection(("127.0.0.1", container.port), timeout=60) as connection:
        length = Settings().max_body_bytes + 1
        head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4_096).startswith(b"HTTP/1.1 413 ")


def test_a_stream_is_whole_lines_however_its_parts_are_cut(container, several_windows):
    # What InvokeEndpointWithResponseStream hands on: parts of any length, within a letter too.
    address = ("127.0.0.1", container.port)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nAccept: {NDJSON['accept']}\r\nConnection: close\r\n"
    with socket.create_connection(address, timeout=600) as connection:
        connection.sendall(f"{head}Content-Length: {len(several_windows)}\r\n\r\n".encode() + several_windows)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(1)
        assert b"transfer-encoding: chunked" in received.lower()
        parts = list(iter(lambda: connection.recv(7), b""))
    lines = dechunked(b"".join(parts)).split(b"\n")
    assert lines.pop() == b""  # the last line ends, too
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events] == ["start", *["segment"] * (len(events) - 2), "end"]
    assert len(events) > 3
    document = container.client.post("/invocations", content=several_windows).json()
    assert events[-1]["text"] == document["text"] != ""


def dechunked(body: bytes) -> bytes:
    """Undo the chunked transfer coding (RFC 9112, section 7.1)."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        content, body = content + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return content


def test_a_batch_transform_is_told_its_parameters(container):
    told = container.client.get("/execution-parameters").json()
    assert set(told) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert told["BatchStrategy"] == "SINGLE_RECORD"
    assert told["MaxConcurrentTransforms"] * told["MaxPayloadInMB"] <= 100


def test_prometheus_reads_the_metrics_on_the_same_port(container):
    answer = container.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"shrota_requests", "shrota_request_seconds", "shrota_windows_waiting"} <= names


@pytest.fixture
def stopped_in_mid_stream(run_image, several_windows) -> tuple[Container, list[list[dict]], str]:
    """A container that got SIGTERM while six clients were being answered; what each of them got; the text."""
    container = run_image()
    met = threading.Barrier(7)

    def listen() -> list[dict]:
        with container.client.stream(
            "POST", "/invocations", content=several_windows, headers=NDJSON
        ) as response:
            lines = response.iter_lines()
            events = [json.loads(next(lines)), json.loads(next(lines))]
            met.wait(600)
            return events + [json.loads(line) for line in lines]

    with container.child as child, container.client, ThreadPoolExecutor() as pool:
        child.wait_for("model.ready")
        text = container.client.post("/invocations", content=several_windows).json()["text"]
        streams = [pool.submit(listen) for _ in range(6)]
        met.wait(600)
        child.process.send_signal(signal.SIGTERM)
        events = [stream.result() for stream in streams]
        assert child.finish() == 0
    return container, events, text


def test_after_sigterm_every_client_gets_its_text_or_an_error_and_nothing_strays(stopped_in_mid_stream):
    container, streams, text = stopped_in_mid_stream
    for events in streams:
        assert [event["type"] for event in events[:2]] == ["start", "segment"]
        end = events[-1]
        if end["type"] == "end":
            assert end["text"] == text
        else:  # on a machine too slow to finish in time
            assert (end["type"], end["error"]["code"]) == ("error", "not_ready")
    answered = [line for line in container.child.log if line["event"] == "request"]
    assert [line["status"] for line in answered] == [200] * 7
    # Nothing was written outside the temporary directory, and nobody called outside the machine.
    assert container.watched.strays() == []
    assert (container.tmp_dir / "shrota" / "converted").is_dir()


def test_a_container_that_is_stopped_while_it_loads_ends_with_status_0(run_image):
    container = run_image()
    with container.child as child, container.client:
        child.wait_for("service.listening")
        child.process.send_signal(signal.SIGTERM)
        assert child.finish() == 0


def test_the_parts_of_a_stop_add_up_to_less_than_the_platform_grants():
    assert Settings().drain_s + LAST_WORDS_S + CONNECTIONS_CLOSE_S + ENGINE_CLOSES_S <= STOP_S


def test_what_strays_is_seen(watch, tmp_path):
    (tmp_path / "tmp").mkdir()
    watched = watch(tmp_path / "watch", tmp_path / "tmp")
    script = """
import os, socket, sys
open(sys.argv[1] + "/stray", "w").close()
os.mkdir(sys.argv[1] + "/tmp/fine")
try:
    socket.create_connection(("192.0.2.1", 80), timeout=0.01)
except OSError:
    pass
"""
    environ = {**os.environ, **watched.environ}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environ, check=True)
    written, *called = watched.strays()
    assert written.startswith("open") and str(tmp_path / "stray") in written
    assert called and all("192.0.2.1" in line for line in called)
