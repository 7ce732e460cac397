"""Functions of the artifact's own code: found, checked, called, and their faults turned into ours."""

import sys

import numpy as np
import pytest

from serve.errors import ArtifactError, HookError, HookRefusal, RequestError, UnsupportedMediaType
from serve.service.hooks import ServedModel, load_hooks, read_recording


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """Write code/ of an artifact: `artifact(source, **further files)`."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(source, name="inference.py", **files):
        code = tmp_path / "code"
        code.mkdir()
        (code / name).write_text(source)
        for stem, text in files.items():
            (code / f"{stem}.py").write_text(text)
        return tmp_path

    yield write
    sys.modules.pop("inference", None)


def answer(hooks, body=b"sound", content_type="audio/wav", accept="application/json"):
    return hooks.answer(
        body,
        content_type,
        accept,
        headers={"x-who": "me"},
        transcribe=lambda audio, options: {"text": f"{len(audio)} bytes", **options},
        read=lambda: {"audio": body, "language": "mr"},
    )


def test_an_artifact_without_code_has_no_hooks(tmp_path):
    assert load_hooks(tmp_path, "inference.py") is None
    (tmp_path / "code").mkdir()
    assert load_hooks(tmp_path, "inference.py") is None


def test_all_hooks_of_a_chain_are_called_with_what_came_before(artifact):
    source = """
import words
def model_fn(model_dir, context):
    return {"dir": model_dir, "context": context.system_properties["model_dir"]}
def input_fn(body, content_type):
    return (body, content_type)
def predict_fn(data, model, context):
    assert model["dir"] == model["context"] == context.model_dir
    return [*data, context.get_request_header(0, "X-Who"), context.transcribe(b"four", language="hi")]
def output_fn(prediction, accept):
    return f"{words.GREETING} {prediction} {accept}", "text/x-greeting"
"""
    hooks = load_hooks(artifact(source, words="GREETING = 'नमस्ते'"), "inference.py")
    hooks.load_model()
    body, content_type = answer(hooks, b'{"a": 1}', "application/json", "text/plain")
    said = "['{\"a\": 1}', 'application/json', 'me', {'text': '4 bytes', 'language': 'hi'}]"
    assert (body.decode(), content_type) == (f"नमस्ते {said} text/plain", "text/x-greeting")


def test_what_is_missing_is_done_as_without_hooks(artifact):
    source = "def output_fn(prediction, accept): return prediction['text'].upper()"
    hooks = load_hooks(artifact(source), "inference")
    assert answer(hooks, accept="text/plain") == (b"5 BYTES", "text/plain")
    assert hooks.writes_answer and not hooks.reads_body


def test_a_predict_fn_gets_the_served_model_and_its_dict_becomes_json(artifact):
    source = """
import numpy as np
def predict_fn(data, model):
    return model(data, prompt="before") | {"score": np.float32(0.5), "all": np.arange(2)}
"""
    body, content_type = answer(load_hooks(artifact(source), "inference.py"), accept="text/plain")
    assert content_type == "application/json"
    assert body == b'{"text":"5 bytes","language":"mr","prompt":"before","score":0.5,"all":[0,1]}'


def test_a_transform_fn_does_it_all(artifact):
    source = "def transform_fn(model, body, content_type, accept): return body[::-1]"
    hooks = load_hooks(artifact(source, name="mine.py"), "mine.py")
    assert hooks.takes_any_body and answer(hooks) == (b"dnuos", "application/json")


@pytest.mark.parametrize(
    ("raising", "error", "said"),
    [
        ("ValueError('too short\\nsecret')", HookRefusal, "too short"),
        ("KeyError('secret')", HookError, "predict_fn"),
        ("SystemExit('secret')", HookError, "predict_fn"),
        ("errors.BaseInferenceToolkitError(418, 'no tea', 'x')", HookRefusal, "no tea"),
        ("errors.UnsupportedFormatError('text/x')", UnsupportedMediaType, "text/x"),
    ],
)
def test_what_a_hook_raises_becomes_an_error_of_ours(artifact, raising, error, said):
    source = f"from sagemaker_inference import errors\ndef predict_fn(data, model): raise {raising}"
    hooks = load_hooks(artifact(source), "inference.py")
    with pytest.raises(error, match=said) as refused:
        answer(hooks)
    assert "secret" not in str(refused.value)
    if "418" in raising:
        assert refused.value.status == 418


def test_an_answer_that_cannot_be_written_is_their_fault(artifact):
    hooks = load_hooks(artifact("def output_fn(prediction, accept): return object()"), "inference.py")
    with pytest.raises(HookError):
        answer(hooks)


def test_text_that_is_no_utf8_is_the_clients_fault(artifact):
    source = "def transform_fn(model, body, content_type, accept): return body"
    with pytest.raises(RequestError, match="UTF-8"):
        answer(load_hooks(artifact(source), "inference.py"), b"\xff", "application/json")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
        ("this is no Python", "cannot be imported: SyntaxError"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("predict_fn = 3", "predict_fn is not a function"),
        ("def predict_fn(data): pass", "takes data, model"),
        ("def predict_fn(data, model, context, more): pass", "takes data, model"),
        (
            "def transform_fn(model, body, kind, accept): ...\ndef output_fn(prediction, accept): ...",
            "in place of",
        ),
        ("def model_fn(model_dir): return {}['weights']", "model_fn failed: KeyError"),
    ],
)
def test_code_that_cannot_work_stops_the_start(artifact, source, said):
    with pytest.raises(ArtifactError, match=said):
        load_hooks(artifact(source), "inference.py").load_model()


def test_code_from_outside_of_the_artifact_is_not_run(tmp_path, artifact):
    outside = tmp_path / "outside.py"
    outside.write_text("raise AssertionError('it ran')")
    model_dir = artifact("", name="other.py")
    inside = tmp_path / "model"
    (inside / "code").mkdir(parents=True)
    (inside / "code" / "inference.py").symlink_to(outside)
    with pytest.raises(ArtifactError, match="outside"):
        load_hooks(inside, "inference.py")
    with pytest.raises(ArtifactError, match="outside"):
        load_hooks(inside, str(outside))
    assert load_hooks(model_dir, "other.py") is None


@pytest.mark.parametrize(
    ("data", "first", "options"),
    [
        (b"RIFF", ord("R"), {}),
        (bytearray(b"RIFF"), ord("R"), {}),
        ({"audio": "UklGRg==", "language": "mr"}, ord("R"), {"language": "mr"}),
        (np.array([16_384, 0], np.int16), 0.5, {}),
        (np.array([4.0, np.nan, -2.0]), 1.0, {}),
        ({"audio": np.array([0.5, 0.5], np.float64)}, 0.5, {}),
    ],
)
def test_recordings_come_in_many_shapes(data, first, options):
    audio, named = read_recording(data)
    assert (audio[0], named) == (first, options)
    assert isinstance(audio, bytes) or audio.dtype == np.float32


@pytest.mark.parametrize("data", [None, 3, "text", {}, np.zeros(0), np.zeros((1, 1, 1)), np.zeros(2, "<U1")])
def test_what_is_no_recording_is_refused(data):
    with pytest.raises(TypeError, match="not a recording"):
        read_recording(data)


def test_the_served_model_waits_for_a_request():
    with pytest.raises(RuntimeError, match="while a request"):
        ServedModel()(b"RIFF")
