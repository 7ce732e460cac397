"""The text that an adapter had at its export decides whether it is served."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import StartupError
from serve.model.artifact import ADAPTER_WEIGHTS, load_artifact
from serve.service.known_sound import (
    LEAST_LIKENESS,
    check_known_sound,
    likeness,
    text_of_known_sound,
    warm_up,
)
from serve.service.loading import load_pipeline


def test_a_text_is_like_itself_and_hardly_like_another():
    first, second = "तुझं नाव काय आहे ते मला सांग", "बाजारात आज भाजी खूप महाग झाली"
    assert likeness(first, first) == likeness("", "") == 1.0
    assert likeness(first, first.replace("काय", "कय")) > 0.9
    assert likeness(first, second) < LEAST_LIKENESS
    assert likeness("", first) == 0.0


def test_an_adapter_is_served_as_it_was_exported_and_not_when_its_values_are_others(
    write_tiny_artifact, tmp_path
):
    plain = load_pipeline(write_tiny_artifact(tmp_path / "plain"))
    text = text_of_known_sound(plain)
    assert text
    noted_dir = write_tiny_artifact(tmp_path / "noted", known_text=text)
    noted = load_pipeline(noted_dir)
    assert text_of_known_sound(noted) == text
    assert check_known_sound(noted, text)
    weights = load_artifact(noted_dir).adapter_dir / ADAPTER_WEIGHTS
    rng = np.random.default_rng(0)
    values = {
        name: rng.normal(0, 3, each.shape).astype(each.dtype) for name, each in load_file(weights).items()
    }
    save_file(values, weights, metadata={"format": "pt"})
    with pytest.raises(StartupError, match="known recording"):
        check_known_sound(load_pipeline(noted_dir), text)


def test_a_model_that_knows_no_language_of_the_recording_is_warmed_up_with_noise(
    write_tiny_artifact, tmp_path, monkeypatch
):
    pipeline = load_pipeline(write_tiny_artifact(tmp_path / "noted", known_text="तर"))
    warmed = []
    monkeypatch.setattr(type(pipeline), "warm_up", lambda self, decoder: warmed.append(decoder))
    monkeypatch.setattr(type(pipeline.engine), "languages", frozenset({"en"}))
    with Scheduler(pipeline.engine) as scheduler, scheduler.admit() as ticket:
        warm_up(pipeline, ticket)
        assert warmed == [ticket]


def test_a_service_does_not_become_ready_with_another_text(start_child, write_tiny_artifact, tmp_path):
    import sys

    model_dir = write_tiny_artifact(tmp_path / "other", known_text="zzzz zzzz zzzz")
    child = start_child(sys.executable, "-m", "serve", "--model-dir", str(model_dir), "--port", "0")
    assert child.finish() == 1
    (failed,) = [line for line in child.log if line.get("event") == "model.failed"]
    assert "known recording" in failed["error"]
    assert not any(line.get("event") == "model.ready" for line in child.log)
