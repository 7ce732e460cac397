"""`python -m serve` as a child process: a real model, real signals, exit statuses and logs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]

GATED_SERVICE = """
import sys, time
from pathlib import Path
import numpy as np
from serve.__main__ import leave
from serve.engine import Hypothesis
from serve.http.logs import configure_logs
from serve.http.server import run
from serve.pipeline import Pipeline, ServingFacts
from serve.settings import Settings

class Gated:
    "Hears x in the warm-up and the first window, and in others once the gate is there."
    n_batches = 0
    languages = frozenset({"mr"})
    has_adapter = False
    n_workers = 1
    def transcribe_batch(self, log_mels, options):
        self.n_batches += 1
        while self.n_batches > 2 and not Path(sys.argv[1]).exists():
            time.sleep(0.01)
        heard = dict(text="x", tokens=(1,), language_prob=None, avg_logprob=0.0, no_speech_prob=0.0)
        return [Hypothesis(language="mr", **heard) for _ in options]
    def unsupported(self, options): ...
    def close(self): ...

class Frames:
    def log_mel(self, samples, window_s):
        return np.zeros((80, 3000), np.float32)

configure_logs("info")
pipeline = Pipeline(Gated(), Frames(), ServingFacts(language="mr", max_first_window_s=1.0))
settings = Settings(host="127.0.0.1", port=0, drain_s=float(sys.argv[2]), max_batch_windows=1)
leave(run(settings, lambda settings: pipeline))
"""


def test_a_real_artifact_is_served_and_stops_at_sigterm_with_status_0(start, tiny_artifact_dir, speech_wav):
    child = start(
        *(sys.executable, "-m", "serve", "--model-dir", str(tiny_artifact_dir), "--quantization", "none"),
        *("--n-threads", "1", "--host", "127.0.0.1", "--port", "0"),
    )
    with child.client() as client:
        assert client.get("/ping").status_code in (200, 503)
        child.wait_for("model.ready")
        assert client.get("/ping").status_code == 200
        answer = client.post("/invocations?temperature=0", content=speech_wav)
        assert answer.status_code == 200
        text = answer.json()["text"]
        assert text
        assert answer.json()["language"] == "mr"
        lines = client.post("/invocations", content=speech_wav, headers={"accept": "application/jsonlines"})
        assert json.loads(lines.text.splitlines()[-1])["text"] == text
        base_alone = client.post("/invocations?adapter=none", content=speech_wav)
        assert base_alone.json()["text"] != text
        child.process.send_signal(signal.SIGTERM)
        assert child.finish() == 0
    requests = [line for line in child.log if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 200, 200]
    assert text not in json.dumps(child.log, ensure_ascii=False)


def test_what_cannot_be_served_is_status_1_and_one_sentence(start, tmp_path):
    child = start(sys.executable, "-m", "serve", "--port", "0", SHROTA_MODEL_DIR=str(tmp_path))
    assert child.finish() == 1
    (failure,) = [line for line in child.log if line["event"] == "model.failed"]
    assert "manifest.json" in failure["error"]
    assert "Traceback" not in json.dumps(child.log)


def test_settings_that_are_wrong_are_status_1_and_all_named():
    environ = os.environ | {"SHROTA_PORT": "http", "SHROTA_DRAIN_S": "99"}
    child = subprocess.run(
        [sys.executable, "-m", "serve"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert "SHROTA_PORT" in child.stderr and "drain_s" in child.stderr
    assert "Traceback" not in child.stderr


NDJSON = {"accept": "application/x-ndjson"}


def test_a_stream_in_progress_is_finished_after_sigterm_while_all_else_is_refused(
    start, several_windows, tmp_path
):
    child = start(sys.executable, "-c", GATED_SERVICE, str(tmp_path / "gate"), "20")
    with child.client() as client:
        child.wait_for("model.ready")
        with client.stream("POST", "/invocations", content=several_windows, headers=NDJSON) as response:
            lines = response.iter_lines()
            events = [json.loads(next(lines)), json.loads(next(lines))]
            child.process.send_signal(signal.SIGTERM)
            child.wait_for("service.draining")
            ping = httpx.get(f"{client.base_url}/ping")
            refused = httpx.post(f"{client.base_url}/invocations", content=several_windows)
            (tmp_path / "gate").touch()
            events += [json.loads(line) for line in lines]
        assert child.finish() == 0
    for answer in (ping, refused):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert [event["type"] for event in events] == ["start", *["segment"] * 4, "end"]
    assert events[-1]["n_segments"] == 4


def test_a_stream_that_cannot_be_finished_in_time_ends_with_an_error(start, several_windows, tmp_path):
    child = start(sys.executable, "-c", GATED_SERVICE, str(tmp_path / "no-gate"), "0.5")
    with child.client() as client:
        child.wait_for("model.ready")
        with client.stream("POST", "/invocations", content=several_windows, headers=NDJSON) as response:
            lines = response.iter_lines()
            events = [json.loads(next(lines)), json.loads(next(lines))]
            child.process.send_signal(signal.SIGTERM)
            events += [json.loads(line) for line in lines]
        assert child.finish() == 0
    assert [event["type"] for event in events] == ["start", "segment", "error"]
    assert events[-1]["error"]["code"] == "not_ready"
