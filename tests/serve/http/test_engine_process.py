"""The engine's process is killed under a running service: requests are answered, and /ping is true."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
N_KILLS = 10
N_CLIENTS = 8


def engine_pid(service):
    """Return the id of the engine's process of a service; None while there is none."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == service and fields[0] != "Z" and b"serve.service.worker" in command:
            return int(status.parent.name)
    return None


def kill(service):
    """Kill the engine's process, and return its id."""
    wait_until(lambda: engine_pid(service) is not None)
    pid = engine_pid(service)
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.fixture(scope="module")
def child(start_child, tiny_artifact_dir):
    command = ["--model-dir", tiny_artifact_dir, "--host", "127.0.0.1", "--port", "0"]
    child = start_child(sys.executable, "-m", "serve", *command)
    child.wait_for("model.ready")
    return child


def test_a_service_goes_on_when_its_engine_is_killed(child, speech_wav):
    service = child.process.pid
    with child.client() as client:
        headers = {"Content-Type": "audio/wav"}
        before = client.post("/invocations", content=speech_wav, headers=headers)
        assert before.status_code == 200
        pid = kill(service)
        answers = []
        wait_until(lambda: answers.append(client.get("/ping").status_code) or answers[-1] == 503)
        refused = client.post("/invocations", content=speech_wav, headers=headers)
        assert refused.status_code in (200, 503)
        if refused.status_code == 503:
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["message"] == "the engine ended, and is started again"
        wait_until(lambda: client.get("/ping").status_code == 200)
        assert engine_pid(service) not in (None, pid)
        after = client.post("/invocations", content=speech_wav, headers=headers)
        assert after.json()["segments"] == before.json()["segments"]
        assert "shrota_engine_restarts_total 1.0" in client.get("/metrics").text
    assert child.wait_for("worker.lost")["status"] == -signal.SIGKILL


def test_the_engine_can_run_in_the_process_of_the_service(served, tiny_artifact_dir, speech_wav):
    with served(tiny_artifact_dir, "--engine-process", "false") as client:
        answer = client.post("/invocations", content=speech_wav, headers={"Content-Type": "audio/wav"})
        assert answer.status_code == 200
        assert "shrota_engine_memory_bytes 0.0" in client.get("/metrics").text


@pytest.mark.slow
def test_ten_kills_under_eight_clients_lose_nothing(start_child):
    """Every request ends with the right text, or with one clear error; the service is back each time."""
    child = start_child(
        *(sys.executable, "-m", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--model-dir", ROOT / "model_artifacts" / "whisper-base-mr"),
    )
    child.wait_for("model.ready")
    sound = (ROOT / "tests" / "data" / "sample-mr.flac").read_bytes()
    headers = {"Content-Type": "audio/flac"}
    outcomes, texts, back_s = Counter(), set(), []
    over = threading.Event()

    def ask():
        with child.client() as client:
            while not over.is_set():
                answer = client.post("/invocations", content=sound, headers=headers, timeout=60)
                outcomes[answer.status_code] += 1
                if answer.status_code == 200:
                    texts.add(answer.json()["text"])
                else:
                    error = answer.json()["error"]
                    outcomes[error["code"]] += 1
                    assert error["message"]
                    time.sleep(0.2)

    with ThreadPoolExecutor(N_CLIENTS) as clients, child.client() as client:
        (text,) = {client.post("/invocations", content=sound, headers=headers).json()["text"]}
        asked = [clients.submit(ask) for _ in range(N_CLIENTS)]
        for _ in range(N_KILLS):
            time.sleep(2.0)
            began, pid = time.monotonic(), kill(child.process.pid)
            wait_until(lambda pid=pid: engine_pid(child.process.pid) not in (None, pid))
            wait_until(lambda: client.get("/ping").status_code == 200)
            back_s.append(time.monotonic() - began)
        time.sleep(2.0)
        over.set()
        for each in asked:
            each.result()
    print(f"\nstatuses and codes: {dict(outcomes)}; back after {[round(each, 2) for each in back_s]} s")
    assert texts == {text}
    assert set(outcomes) <= {200, 503, 500, "not_ready", "engine_lost"}
    assert outcomes[500] == outcomes["engine_lost"]
    assert outcomes[200] > N_KILLS
    with httpx.Client(base_url=client.base_url) as last:
        assert f"shrota_engine_restarts_total {N_KILLS}.0" in last.get("/metrics").text
