"""What can be served, and what is refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from serve.audio.decode import AudioLimits, decode_audio
from serve.errors import ArtifactError, BaseModelError, ConfigError
from serve.options import TranscriptionOptions
from serve.service.loading import find_served, load_pipeline


def edited_manifest(artifact_dir, tmp_path, **changes):
    copy = shutil.copytree(artifact_dir, tmp_path / "edited")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    return copy


def test_an_artifact_is_served_as_its_manifest_says(tiny_artifact_dir, speech):
    pipeline = load_pipeline(tiny_artifact_dir, quantization="none")
    assert (pipeline.facts.adapter_name, pipeline.facts.language) == ("tiny-mr", "mr")
    assert pipeline.facts.dynamic
    start, *segments, _ = pipeline.transcribe(speech)
    assert start.language == "mr"
    assert segments[0].text
    assert pipeline.transcribe_many([speech])[0].segments[0].text == segments[0].text
    base_alone = list(pipeline.transcribe(speech, TranscriptionOptions(adapter="none")))[1:-1]
    assert base_alone != segments


def test_a_base_model_is_served_alone_from_its_directory(tiny_base_dir):
    pipeline = load_pipeline(tiny_base_dir, quantization="none")
    assert not pipeline.engine.has_adapter
    assert pipeline.facts.adapter_name is None
    named = TranscriptionOptions(language="mr")  # the tiny vocabulary is too small for detection
    assert pipeline.transcribe_many([np.zeros(16_000, np.float32)], named)[0].text == ""


def test_a_named_base_model_needs_no_model_directory(tiny_base_dir, tmp_path):
    served = find_served(tmp_path / "absent", str(tiny_base_dir))
    assert (served.base_dir, served.artifact) == (tiny_base_dir, None)


def test_a_base_model_inside_the_artifact_is_taken_before_the_one_named(
    tiny_artifact_dir, tiny_base_dir, tmp_path
):
    copy = shutil.copytree(tiny_artifact_dir, tmp_path / "whole")
    shutil.copytree(tiny_base_dir, copy / "base")
    assert find_served(copy, None).base_dir == copy / "base"


def test_nothing_to_serve_names_the_directory(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        find_served(tmp_path, None)


def test_an_adapter_for_another_base_model_is_refused(tiny_artifact_dir, tiny_base_dir, tmp_path):
    base = {"name": str(tiny_base_dir), "fingerprint": "0" * 64}
    with pytest.raises(ArtifactError, match=r"base_model\.fingerprint"):
        find_served(edited_manifest(tiny_artifact_dir, tmp_path, base_model=base), None)


def test_a_base_model_that_cannot_be_had_is_named(tiny_artifact_dir, tmp_path):
    base = {"name": str(tmp_path / "absent"), "fingerprint": "0" * 64}
    with pytest.raises(BaseModelError, match="absent"):
        find_served(edited_manifest(tiny_artifact_dir, tmp_path, base_model=base), None, offline=True)


TRANSCRIBE = """
import sys
from pathlib import Path
import serve.http.server
from serve.audio.decode import AudioLimits, decode_audio
from serve.service.loading import load_pipeline
pipeline = load_pipeline(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]))
samples = decode_audio(Path(sys.argv[3]).read_bytes(), AudioLimits())
print(pipeline.transcribe_many([samples])[0].text)
print([name for name in ("torch", "torchaudio", "transformers", "peft") if name in sys.modules])
"""


def test_a_service_whose_model_is_converted_starts_without_torch(tiny_artifact_dir, speech_wav, tmp_path):
    pipeline = load_pipeline(tiny_artifact_dir, cache_dir=tmp_path / "cache")
    expected = pipeline.transcribe_many([decode_audio(speech_wav, AudioLimits())])[0].text
    (tmp_path / "speech.wav").write_bytes(speech_wav)
    arguments = [str(each) for each in (tiny_artifact_dir, tmp_path / "cache", tmp_path / "speech.wav")]
    child = subprocess.run(
        [sys.executable, "-c", TRANSCRIBE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert child.stdout.splitlines() == [expected, "[]"] and expected


@pytest.mark.parametrize(
    ("quantization", "engine", "expected"),
    [
        ("int8", "auto", "CTranslate2Engine"),
        ("none", "auto", "CTranslate2Engine"),
        ("int4", "auto", "TransformersEngine"),
        ("none", "transformers", "TransformersEngine"),
    ],
)
def test_the_engine_follows_from_the_quantization_unless_it_is_named(
    tiny_base_dir, tmp_path, quantization, engine, expected
):
    pipeline = load_pipeline(tiny_base_dir, engine=engine, quantization=quantization, cache_dir=tmp_path)
    assert type(pipeline.engine).__name__ == expected
    pipeline.engine.close()


def test_four_bits_are_not_asked_of_an_engine_that_has_none(tiny_base_dir):
    with pytest.raises(ConfigError, match="int4 needs the engine transformers"):
        load_pipeline(tiny_base_dir, engine="ctranslate2", quantization="int4")
