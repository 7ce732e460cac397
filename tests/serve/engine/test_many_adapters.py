"""Adapters beside the one that an engine was loaded with, on both runtimes."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from serve.audio.features import FeatureExtractor, window_length_s
from serve.engine import SERVED_ADAPTER, DecodingOptions
from serve.engine.ctranslate2.engine import CTranslate2Engine
from serve.engine.transformers.engine import TransformersEngine
from serve.errors import StartupError
from serve.model.artifact import load_artifact

MARATHI = DecodingOptions(language="mr", adapter=SERVED_ADAPTER, max_new_tokens=12)


@pytest.fixture(scope="module")
def log_mels(tiny_base_dir):
    features = FeatureExtractor(tiny_base_dir)
    rng = np.random.default_rng(0)
    return [features.log_mel(rng.normal(0, 0.1, 16_000).astype(np.float32), 2.0) for _ in range(4)]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, tiny_artifact_dir, write_tiny_artifact):
    directory = tmp_path_factory.mktemp("artifacts")
    others = [write_tiny_artifact(directory / f"{seed}", seed=seed) for seed in (2, 3)]
    return [load_artifact(path) for path in (tiny_artifact_dir, *others)]


@pytest.fixture(scope="module", params=["ctranslate2", "int8", "none"])
def load(request, tiny_base_dir, tmp_path_factory):
    """Load an engine: CTranslate2, or transformers with an adapter beside int8 weights, or merged."""
    cache_dir = tmp_path_factory.mktemp("cache")

    def load(artifact=None):
        if request.param == "ctranslate2":
            return CTranslate2Engine.load(tiny_base_dir, artifact, quantization="none", cache_dir=cache_dir)
        adapter_dir = artifact.adapter_dir if artifact else None
        return TransformersEngine.load(tiny_base_dir, adapter_dir, quantization=request.param, dynamic=True)

    return load


@pytest.fixture
def tokens(decode):
    def tokens(engine, log_mels, adapters):
        options = [replace(MARATHI, adapter=adapter) for adapter in adapters]
        return [found.tokens for found in decode(engine, log_mels, options)]

    return tokens


def test_adapters_in_one_batch_write_what_each_writes_alone(load, artifacts, log_mels, tokens):
    expected, singly = [], []  # bitsandbytes rounds a row by what else is in its batch
    for artifact in artifacts:
        alone = load(artifact)
        expected.append(tokens(alone, log_mels, [MARATHI.adapter] * 4))
        singly.append([tokens(alone, [log_mel], [MARATHI.adapter])[0] for log_mel in log_mels])
        alone.close()
    engine = load(artifacts[0])
    for key, artifact in (("a", artifacts[1]), ("b", artifacts[2])):
        assert engine.adapter_bytes(artifact) > 0
        engine.load_adapter(key, artifact)
    mixed = tokens(engine, log_mels, ["b", MARATHI.adapter, "a", None])
    assert mixed[:3] == [singly[2][0], singly[0][1], singly[1][2]]
    assert tokens(engine, log_mels, ["a"] * 4) == expected[1]
    engine.unload_adapter("a")
    assert tokens(engine, log_mels, ["b"] * 4) == expected[2]
    engine.unload_adapter("b")
    engine.load_adapter("again", artifacts[1])
    assert tokens(engine, log_mels, ["again"] * 4) == expected[1]
    assert tokens(engine, log_mels, [MARATHI.adapter] * 4) == expected[0]
    assert tokens(engine, log_mels[3:], [None]) == mixed[3:]
    engine.close()


def test_a_base_that_was_loaded_alone_takes_adapters_and_is_itself_again(load, artifacts, log_mels, tokens):
    engine, alone = load(), load(artifacts[1])
    base = tokens(engine, log_mels, [None] * 4)
    for key in ("a", "b"):
        engine.load_adapter(key, artifacts[1])
        assert tokens(engine, log_mels, [key] * 4) == tokens(alone, log_mels, [MARATHI.adapter] * 4) != base
        engine.unload_adapter(key)
        assert tokens(engine, log_mels, [None] * 4) == base


def test_adapters_come_and_go_while_others_are_at_work(load, artifacts, log_mels, tokens):
    engine = load(artifacts[0])
    expected = tokens(engine, log_mels, [MARATHI.adapter] * 4)
    found, going = [], threading.Event()

    def work():
        while not going.is_set():
            found.append(tokens(engine, log_mels, [MARATHI.adapter] * 4))

    worker = threading.Thread(target=work)
    worker.start()
    for number in range(5):
        engine.load_adapter(f"a{number}", artifacts[1 + number % 2])
        engine.unload_adapter(f"a{number}")
    going.set()
    worker.join(60)
    assert found and all(each == expected for each in found)


def test_an_adapter_that_does_not_fit_is_refused_and_the_engine_goes_on(
    load, artifacts, log_mels, tmp_path, write_tiny_artifact, tokens
):
    engine = load(artifacts[0])
    expected = tokens(engine, log_mels, [MARATHI.adapter] * 4)
    broken = write_tiny_artifact(tmp_path / "broken", seed=4)
    (broken / "adapter" / "adapter_config.json").write_text("{}")
    artifact = load_artifact(broken)
    with pytest.raises(StartupError):
        engine.adapter_bytes(artifact)
        engine.load_adapter("broken", artifact)
    engine.unload_adapter("broken")
    assert tokens(engine, log_mels, [MARATHI.adapter] * 4) == expected


def test_the_shipped_adapter_writes_the_same_words_whether_it_came_first_or_later(
    whisper_base_dir, shipped, shipped_int8, sample, decode
):
    log_mel = FeatureExtractor(whisper_base_dir).log_mel(sample, window_length_s(len(sample), 0.9))
    option = replace(MARATHI, max_new_tokens=224)
    (first,) = decode(shipped_int8, [log_mel], [option])
    engine = CTranslate2Engine.load(whisper_base_dir, quantization="int8", preload=False)
    assert engine.adapter_bytes(shipped) > 10 * 2**20
    engine.load_adapter("later", shipped)
    (later,) = decode(engine, [log_mel], [replace(option, adapter="later")])
    assert later.text == first.text and len(first.text.split()) == 8
    assert set(engine.variants.loaded) == {engine.variants.usual("later")}, (
        "the base alone is not loaded for it"
    )
