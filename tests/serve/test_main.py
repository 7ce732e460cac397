"""`python -m serve` as a child process: a real model, real signals, exit statuses and logs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
NDJSON = {"accept": "application/x-ndjson"}

PACED_SERVICE = """
import sys, time
from pathlib import Path
import numpy as np
from serve.__main__ import leave
from serve.engine import Hypothesis
from serve.http.logs import configure_logs
from serve.http.server import run
from serve.pipeline import Pipeline, ServingFacts
from serve.settings import Settings

class Paced:  # waits from its second window of speech on; the warm-up is the first of all
    languages = frozenset({"mr"})
    has_adapter = False
    n_workers = 1
    n_windows = 0
    def transcribe_batch(self, log_mels, options):
        self.n_windows += 1
        while self.n_windows > 2 and not Path(sys.argv[1]).exists():
            time.sleep(0.02)
        heard = dict(text="x", tokens=(1,), language_prob=None, avg_logprob=0.0, no_speech_prob=0.0)
        return [Hypothesis(language="mr", **heard) for _ in options]
    def unsupported(self, options): ...
    def close(self): ...

class Frames:
    def log_mel(self, samples, window_s):
        return np.zeros((80, 3000), np.float32)

configure_logs("info")
pipeline = Pipeline(Paced(), Frames(), ServingFacts(language="mr", max_first_window_s=1.0))
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


@contextmanager
def stream_after_sigterm(start, go_on: Path, drain_s: float, wav: bytes):
    """Start a stream from a service that waits for the file `go_on`, and stop it after its first segment.

    Gives the child, a client of it, and the events that are still to come.
    """
    child = start(sys.executable, "-c", PACED_SERVICE, str(go_on), str(drain_s))
    with child.client() as client:
        child.wait_for("model.ready")
        with client.stream("POST", "/invocations", content=wav, headers=NDJSON) as response:
            events = map(json.loads, response.iter_lines())
            assert [next(events)["type"], next(events)["type"]] == ["start", "segment"]
            child.process.send_signal(signal.SIGTERM)
            child.wait_for("service.draining")
            yield child, client, events
        assert child.finish() == 0


def test_a_stream_in_progress_is_finished_after_sigterm(start, tmp_path, several_windows):
    go_on = tmp_path / "go-on"
    with stream_after_sigterm(start, go_on, 20, several_windows) as (_, client, events):
        for answer in (client.get("/ping"), client.post("/invocations", content=several_windows)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        go_on.touch()
        *_, last = events
    assert (last["type"], last["n_segments"]) == ("end", 4)


def test_a_stream_that_cannot_be_finished_in_time_ends_with_an_error(start, tmp_path, several_windows):
    with stream_after_sigterm(start, tmp_path / "never", 0.5, several_windows) as (child, _, events):
        *_, last = events
        # The engine is still at its window, and is not waited for: SIGKILL comes 30 s after SIGTERM.
        assert child.process.wait(timeout=25) == 0
    assert (last["type"], last["error"]["code"]) == ("error", "not_ready")
