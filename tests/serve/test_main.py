"""`python -m serve` as a child process: a real model, real signals, exit statuses and logs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
NDJSON = {"accept": "application/x-ndjson"}

PACED_SERVICE = """
import os, sys, time
from pathlib import Path
import numpy as np
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
    def make_ready(self, options): ...
    def close(self): ...

class Frames:
    def log_mel(self, samples, window_s):
        return np.zeros((80, 3000), np.float32)

configure_logs("info")
pipeline = Pipeline(Paced(), Frames(), ServingFacts(language="mr", max_first_window_s=1.0))
settings = Settings(host="127.0.0.1", port=0, drain_s=float(sys.argv[2]), max_batch_windows=1)
os._exit(run(settings, lambda settings: pipeline))
"""


class Child:
    """A server in a child process, its log read line by line."""

    def __init__(self, *command: str, **environ: str) -> None:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SHROTA_", "SAGEMAKER_"))
        }
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=own | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environ,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict] = []

    def wait_for(self, event: str) -> dict:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"the log ended without {event}: {self.log}")

    def client(self) -> httpx.Client:
        address = self.wait_for("service.listening")["address"]
        return httpx.Client(base_url=f"http://{address}", timeout=60)

    def finish(self) -> int:
        _, rest = self.process.communicate(timeout=40)
        self.log += [json.loads(line) for line in rest.splitlines()]
        return self.process.returncode


@pytest.fixture
def start():
    children = []

    def start(*command, **environ):
        children.append(Child(*command, **environ))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.communicate()


def test_a_real_artifact_is_served_and_stops_at_sigterm_with_status_0(start, tiny_artifact_dir, speech_wav):
    child = start(
        *("-m", "serve", "--model-dir", str(tiny_artifact_dir), "--quantization", "none"),
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
    child = start("-m", "serve", "--port", "0", SHROTA_MODEL_DIR=str(tmp_path))
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


@pytest.fixture(scope="module")
def several_windows(speech_wav):
    import io
    import wave

    out = io.BytesIO()
    with wave.open(io.BytesIO(speech_wav)) as source, wave.open(out, "wb") as target:
        target.setparams(source.getparams())
        clip = source.readframes(source.getnframes())
        target.writeframes((clip + bytes(2 * 16_000 * 2)) * 4)  # with pauses of two seconds
    return out.getvalue()


@contextmanager
def stream_after_sigterm(start, go_on: Path, drain_s: float, wav: bytes):
    """Start a stream from a service that waits for the file `go_on`, and stop it after its first segment.

    Gives the child, a client of it, and the events that are still to come.
    """
    child = start("-c", PACED_SERVICE, str(go_on), str(drain_s))
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
