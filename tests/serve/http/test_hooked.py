"""Hooks over HTTP, with a real artifact: a random Whisper, and code/ beside it."""

import json
import shutil
import sys

import pytest

from serve.errors import ArtifactError
from serve.service.loading import load_pipeline

INVOCATIONS = "/invocations"


@pytest.fixture
def hooked(serve, tiny_artifact_dir, tmp_path, monkeypatch):
    """Serve the tiny artifact with this code; the engine is real."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipelines = []

    def start(source, ready=True, **settings):
        model_dir = tmp_path / "model"
        shutil.copytree(tiny_artifact_dir, model_dir)
        (model_dir / "code").mkdir()
        (model_dir / "code" / "inference.py").write_text(source)

        def load(settings):
            pipelines.append(load_pipeline(settings.model_dir, cache_dir=tmp_path / "cache"))
            return pipelines[-1]

        return serve(load, ready=ready, model_dir=model_dir, **{"user_code": True} | settings)

    yield start
    sys.modules.pop("inference", None)


def test_a_prediction_is_ours_with_theirs_beside(hooked, speech_wav):
    source = """
def predict_fn(data, model):
    return model(data) | {"speaker": "A"}
"""
    running = hooked(source)
    response = running.client.post(INVOCATIONS, content=speech_wav, params={"language": "hi"})
    body = response.json()
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert body["speaker"] == "A" and body["text"] and body["language"] == "hindi" and body["segments"]
    form = running.client.post(INVOCATIONS, files={"file": speech_wav}, data={"language": "hi"})
    assert form.json()["text"] == body["text"]
    wrong = running.client.post(INVOCATIONS, content=b"no sound")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (415, "undecodable_audio")
    assert running.service.n_admitted == 0


def test_an_input_fn_reads_bodies_of_its_own_and_the_answer_still_streams(hooked, speech):
    source = """
import json, numpy as np
def input_fn(body, content_type):
    if content_type != "application/x-samples":
        raise ValueError("send samples")
    return {"audio": np.frombuffer(body, np.int16), "language": "hi"}
"""
    running = hooked(source)
    samples = (speech * 32_767).astype("<i2").tobytes()
    headers = {"content-type": "application/x-samples", "accept": "application/x-ndjson"}
    response = running.client.post(INVOCATIONS, content=samples, headers=headers)
    events = [json.loads(line) for line in response.text.splitlines()]
    assert [events[0]["type"], events[-1]["type"]] == ["start", "end"]
    assert events[-1]["text"] and events[-1]["language"] == "hi"
    refused = running.client.post(INVOCATIONS, content=samples)
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        {"code": "refused", "message": "send samples"},
    )


def test_an_output_fn_writes_the_answer(hooked, speech_wav):
    source = """
def output_fn(prediction, accept):
    return f"<p lang={prediction['language']}>{prediction['text']}</p>", "text/html; charset=utf-8"
"""
    running = hooked(source)
    response = running.client.post(INVOCATIONS, content=speech_wav, headers={"accept": "text/html"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text.startswith("<p lang=marathi>")


def test_faults_have_a_status_and_no_traceback_and_the_next_request_works(hooked, speech_wav):
    source = """
from sagemaker_inference.errors import BaseInferenceToolkitError
def transform_fn(model, body, content_type, accept, context):
    if content_type == "text/fault":
        raise RuntimeError("secret")
    if content_type == "text/tea":
        raise BaseInferenceToolkitError(418, "no tea here", "teapot")
    return context.get_request_header(0, "x-who"), "evil/type\\r\\nx: y"
"""
    running = hooked(source)
    fault = running.client.post(INVOCATIONS, content=b"x", headers={"content-type": "text/fault"})
    assert (fault.status_code, fault.json()["error"]["code"]) == (500, "hook_failed")
    assert "secret" not in fault.text
    tea = running.client.post(INVOCATIONS, content=b"x", headers={"content-type": "text/tea"})
    assert (tea.status_code, tea.json()["error"]["message"]) == (418, "no tea here")
    fine = running.client.post(INVOCATIONS, content=speech_wav, headers={"x-who": "me"})
    assert (fine.status_code, fine.text) == (200, "me")
    assert fine.headers["content-type"] == "application/octet-stream" and "x" not in fine.headers
    assert running.service.n_admitted == 0


def test_code_that_fails_stops_the_start(hooked):
    running = hooked("import nothing_of_this_name", ready=False)
    running.thread.join(timeout=60)
    assert not running.thread.is_alive()
    assert isinstance(running.service.failure, ArtifactError)


def test_code_is_left_alone_where_it_is_switched_off(hooked, speech_wav):
    running = hooked("raise AssertionError('it ran')", user_code=False)
    assert running.client.post(INVOCATIONS, content=speech_wav).json()["text"]
