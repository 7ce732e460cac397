"""`python -m serve` as a child process: a real model, real signals, exit statuses and logs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_real_artifact_is_served_and_stops_at_sigterm_with_status_0(
    start_child, tiny_artifact_dir, speech_wav
):
    child = start_child(
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


def test_what_cannot_be_served_is_status_1_and_one_sentence(start_child, tmp_path):
    child = start_child(sys.executable, "-m", "serve", "--port", "0", SHROTA_MODEL_DIR=str(tmp_path))
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
