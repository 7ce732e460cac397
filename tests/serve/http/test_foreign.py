"""What others made is served without a manifest: adapters of peft, checkpoints, models of CTranslate2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig, get_peft_model
from transformers import WhisperFeatureExtractor, WhisperTokenizer
from transformers import WhisperForConditionalGeneration as Whisper

from serve.config.settings import Settings
from serve.engine.ctranslate2.merging import convert, merge
from serve.errors import ArtifactError, BaseModelError, ConfigError
from serve.model.artifact import Told
from serve.model.base_model import resolve_base_model
from serve.model.foreign import peft_artifact
from serve.options import TranscriptionOptions
from serve.service.loading import find_served, load_pipeline
from serve.service.service import load_from_settings
from train.evaluate.scoring import score

CONFIG = "adapter_config.json"
SAMPLE = Path(__file__).parents[2] / "data" / "sample-mr.flac"
SAMPLE_TEXT = "राजा असतो तर कर माफ करून टाकला असता"


def renamed_base(adapter_dir, name):
    """Let an adapter name another base model."""
    path = adapter_dir / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))
    return adapter_dir


@pytest.fixture
def peft_dir(tiny_artifact_dir, tmp_path):
    """The directory of an adapter as peft's `save_pretrained` leaves it."""
    return shutil.copytree(tiny_artifact_dir / "adapter", tmp_path / "their lora")


@pytest.fixture
def merged_dir(peft_dir, tiny_base_dir, tmp_path):
    """The same adapter merged, saved with the tokenizer in its own file and no settings of features."""
    directory = tmp_path / "merged"
    merge(tiny_base_dir, peft_artifact(peft_dir, tiny_base_dir, Told())).save_pretrained(directory)
    shutil.copy(tiny_base_dir / "tokenizer.json", directory)
    return directory


@pytest.fixture
def ct2_dir(peft_dir, tiny_base_dir, tmp_path):
    """The same converted, with nothing beside it but what CTranslate2 itself writes."""
    directory = tmp_path / "ct2"
    convert(tiny_base_dir, peft_artifact(peft_dir, tiny_base_dir, Told()), "float32", directory)
    for file in directory.iterdir():
        if file.name not in ("model.bin", "config.json", "vocabulary.json"):
            file.unlink()
    return directory


def heard(pipeline, speech) -> str:
    """Return what a pipeline hears."""
    return pipeline.transcribe_many([speech], TranscriptionOptions(beam_size=1))[0].text


def test_an_adapter_of_peft_reads_30_s_unless_whoever_serves_it_knows_better(peft_dir, speech, tmp_path):
    facts = load_pipeline(peft_dir, quantization="none", cache_dir=tmp_path).facts
    assert (facts.adapter_name, facts.language, facts.dynamic) == ("their-lora", None, False)
    told = load_pipeline(
        peft_dir, quantization="none", cache_dir=tmp_path, language="mr", encoder_context="dynamic"
    )
    assert (told.facts.language, told.facts.dynamic) == ("mr", True)
    assert heard(told, speech)


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 2, "lora_alpha": 64, "target_modules": ["fc2", "out_proj", "k_proj"]},
        {"r": 16, "use_rslora": True, "target_modules": r".*decoder.*\.(q_proj|fc1)"},
        {"use_dora": True, "rank_pattern": {"fc1": 8}},
    ],
    ids=["rank and targets", "rslora", "dora"],
)
def test_any_kind_of_lora_is_heard_as_with_a_manifest(write_tiny_artifact, speech, tmp_path, lora, engine):
    facts = {"encoder_context": "fixed", "max_window_s": 30.0}
    artifact_dir = write_tiny_artifact(tmp_path / "ours", lora=lora, **facts)
    options = {"engine": engine, "quantization": "none", "cache_dir": tmp_path}
    ours = heard(load_pipeline(artifact_dir, **options), speech)
    theirs = heard(load_pipeline(artifact_dir / "adapter", language="mr", **options), speech)
    assert theirs == ours != ""


def test_merged_or_converted_it_is_heard_as_the_adapter_is(
    peft_dir, merged_dir, ct2_dir, tiny_base_dir, speech, tmp_path
):
    options = {"quantization": "none", "cache_dir": tmp_path, "language": "mr"}
    adapter = heard(load_pipeline(peft_dir, **options), speech)
    assert heard(load_pipeline(merged_dir, **options), speech) == adapter
    converted = load_pipeline(ct2_dir, str(tiny_base_dir), **options)
    assert heard(converted, speech) == adapter
    with pytest.raises(ConfigError, match="needs the engine ctranslate2"):
        load_pipeline(ct2_dir, str(tiny_base_dir), engine="transformers", **options)


def test_a_model_without_a_tokenizer_asks_for_the_base_it_was_made_from(ct2_dir, tmp_path):
    with pytest.raises(BaseModelError, match="--base-model"):
        find_served(ct2_dir, None, cache_dir=tmp_path)


def test_an_adapter_of_another_base_model_is_refused_by_name(peft_dir, tiny_base_dir, tmp_path):
    base_dir = shutil.copytree(tiny_base_dir, tmp_path / "base" / "openai--whisper-tiny")
    renamed_base(peft_dir, "openai/whisper-small")
    with pytest.raises(ArtifactError, match="trained on openai/whisper-small, and openai/whisper-tiny is"):
        find_served(peft_dir, str(base_dir))
    renamed_base(peft_dir, "/home/somebody/whisper-tiny")  # may be anything: its shapes decide
    assert find_served(peft_dir, str(base_dir)).artifact.kind == "peft"
    renamed_base(peft_dir, None)
    with pytest.raises(ArtifactError, match="names no base model; name it with --base-model"):
        find_served(peft_dir, None)


def test_tensors_that_do_not_fit_name_both_base_models(peft_dir, tiny_base_dir):
    renamed_base(peft_dir, "/home/somebody/whisper-small")
    path = peft_dir / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 5}))
    with pytest.raises(ArtifactError, match=r"not fit.*model is /home/somebody/whisper-small, and tiny"):
        peft_artifact(peft_dir, tiny_base_dir, Told())


def test_a_language_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="language must be a code of Whisper's"):
        Settings(language="marathi")


def test_all_three_are_taken_by_a_running_service(
    serve, tiny_artifact_dir, peft_dir, merged_dir, ct2_dir, speech_wav, tmp_path
):
    shutil.copytree(tiny_artifact_dir, tmp_path / "served")
    running = serve(
        load_from_settings,
        model_dir=tmp_path / "served",
        quantization="none",
        n_threads=1,
        cache_dir=tmp_path / "cache",
    )

    def add(name, **more):
        return running.client.post("/adapters", json={"name": name, **more})

    def text_of(name):
        answer = running.client.post(f"/invocations?beam_size=1&adapter={name}", content=speech_wav)
        assert answer.status_code == 200, answer.text
        return answer.json()["text"]

    for name, directory in (("peft", peft_dir), ("merged", merged_dir), ("ct2", ct2_dir)):
        added = add(name, src=str(directory), language="mr")
        assert (added.status_code, added.json()["language"]) == (200, "mr"), added.text
    assert text_of("peft") == text_of("merged") == text_of("ct2") != ""
    short = add("short", src=str(peft_dir), language="mr", encoder_context="dynamic")
    assert short.status_code == 200
    assert text_of("short")

    said_twice = add("again", src=str(tmp_path / "served"), language="hi")
    assert (said_twice.status_code, said_twice.json()["error"]["code"]) == (400, "bad_adapter")
    assert add("klingon", src=str(peft_dir), language="tlh").json()["error"]["code"] == "bad_request"


@pytest.fixture(scope="module")
def taught_dir(tmp_path_factory):
    """An adapter of openai/whisper-base that learned one sentence, by peft and transformers alone."""
    base_dir = resolve_base_model("openai/whisper-base")
    samples, sample_rate = soundfile.read(SAMPLE, dtype="float32")
    features = WhisperFeatureExtractor.from_pretrained(base_dir)
    tokenizer = WhisperTokenizer.from_pretrained(base_dir, language="marathi", task="transcribe")
    heard = features(samples, sampling_rate=sample_rate, return_tensors="pt").input_features
    labels = torch.tensor([tokenizer(SAMPLE_TEXT).input_ids])
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=32, use_rslora=True, target_modules=r".*decoder.*(q_proj|v_proj|fc1)")
    model = get_peft_model(Whisper.from_pretrained(base_dir, dtype=torch.float32), lora)
    optimiser = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=1e-3)
    with torch.no_grad():
        encoded = model.get_encoder()(heard)
    for _ in range(30):
        loss = model(encoder_outputs=encoded, labels=labels[:, 1:]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    directory = tmp_path_factory.mktemp("taught")
    model.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_what_an_adapter_learned_by_plain_peft_is_heard_as_it_is_served(serve, taught_dir, tmp_path):
    assert {file.name for file in taught_dir.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md")
    }
    running = serve(load_from_settings, model_dir=taught_dir, n_threads=1, cache_dir=tmp_path, language="mr")
    samples, sample_rate = soundfile.read(SAMPLE, dtype="float32")
    noise = np.random.default_rng(0).normal(0, 0.003, len(samples))
    soundfile.write(tmp_path / "noisy.wav", samples + noise, sample_rate)

    def wer(recording, adapter):
        answer = running.client.post(f"/invocations?adapter={adapter}", content=recording.read_bytes())
        assert answer.status_code == 200, answer.text
        return score([SAMPLE_TEXT], [answer.json()["text"]], "marathi").wer

    served = running.service.adapters.pipeline.facts.adapter_name
    assert wer(SAMPLE, "none") > 0.5
    assert wer(SAMPLE, served) == wer(tmp_path / "noisy.wav", served) == 0.0
