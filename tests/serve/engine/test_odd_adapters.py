"""Adapters with saved layers, or written by wrapped models: both engines write what peft itself would."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from serve.audio.features import FeatureExtractor
from serve.engine import SERVED_ADAPTER, DecodingOptions
from serve.engine.ctranslate2.engine import CTranslate2Engine
from serve.engine.ctranslate2.merging import convert, kept_tokens
from serve.engine.transformers.engine import TransformersEngine
from serve.engine.vocabulary import Vocabulary
from serve.errors import ArtifactError, BaseModelError, ConversionError
from serve.model.artifact import load_artifact

MARATHI = DecodingOptions(language="mr", max_new_tokens=12)
SAVED = (["proj_out"], ["embed_tokens"], ["decoder.layer_norm", "fc2", "conv1"])


@pytest.fixture(scope="module")
def log_mels(tiny_base_dir):
    features = FeatureExtractor(tiny_base_dir)
    rng = np.random.default_rng(0)
    return [features.log_mel(rng.normal(0, 0.1, 16_000).astype(np.float32), 30.0) for _ in range(2)]


@pytest.fixture(scope="module", params=SAVED, ids="+".join)
def saved(request, write_tiny_artifact, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "artifact"
    facts = {"scripts": ("Devanagari",), "encoder_context": "fixed"}
    return load_artifact(write_tiny_artifact(directory, lora={"modules_to_save": request.param}, **facts))


def engines(tiny_base_dir, artifact, cache_dir):
    yield CTranslate2Engine.load(tiny_base_dir, artifact, quantization="none", cache_dir=cache_dir)
    adapter_dir = artifact.adapter_dir if artifact else None
    yield TransformersEngine.load(tiny_base_dir, adapter_dir, quantization="none")


@pytest.fixture
def tokens(decode):
    def tokens(engine, log_mels, adapter=SERVED_ADAPTER):
        options = [replace(MARATHI, adapter=adapter)] * len(log_mels)
        return [found.tokens for found in decode(engine, log_mels, options)]

    return tokens


def as_peft_writes(tiny_base_dir, adapter_dir, log_mels):
    """Decode with peft's own model: greedily, the whole sequence again for every token."""
    model = WhisperForConditionalGeneration.from_pretrained(tiny_base_dir)
    if adapter_dir is not None:
        model = PeftModel.from_pretrained(model, str(adapter_dir)).get_base_model()
    vocabulary, texts = Vocabulary.read(tiny_base_dir), []
    for log_mel in log_mels:
        text = [*(prompt := vocabulary.prompt("mr", "transcribe"))]
        with torch.no_grad():
            while len(text) < len(prompt) + 12:
                logits = model(
                    input_features=torch.from_numpy(log_mel)[None], decoder_input_ids=torch.tensor([text])
                ).logits[0, -1]
                logits[vocabulary.suppressed] = -torch.inf
                if len(text) == len(prompt):
                    first = [each for each in vocabulary.suppressed_first if each != vocabulary.end]
                    logits[first if adapter_dir is not None else vocabulary.suppressed_first] = -torch.inf
                if (token := int(logits.argmax())) == vocabulary.end:
                    break
                text.append(token)
        texts.append(tuple(text[len(prompt) :]))
    return texts


def test_saved_layers_are_honoured_by_both_engines_and_gone_without_the_adapter(
    saved, tiny_base_dir, log_mels, tmp_path, tokens
):
    expected = as_peft_writes(tiny_base_dir, saved.adapter_dir, log_mels)
    base = as_peft_writes(tiny_base_dir, None, log_mels)
    assert expected != base
    for engine in engines(tiny_base_dir, saved, tmp_path):
        assert tokens(engine, log_mels) == expected
        assert tokens(engine, log_mels, None) == base
        assert tokens(engine, log_mels) == expected
        engine.close()


def test_saved_layers_are_honoured_beside_another_adapter(
    saved, tiny_base_dir, tiny_artifact_dir, log_mels, tmp_path, tokens
):
    other = load_artifact(tiny_artifact_dir)
    expected = [as_peft_writes(tiny_base_dir, each.adapter_dir, log_mels) for each in (saved, other)]
    for engine in engines(tiny_base_dir, None, tmp_path):
        engine.load_adapter("saved", saved)
        engine.load_adapter("other", other)
        for _ in range(2):
            assert [tokens(engine, log_mels, key) for key in ("saved", "other")] == expected
        engine.unload_adapter("other")
        assert tokens(engine, log_mels, "saved") == expected[0]
        engine.unload_adapter("saved")
        assert tokens(engine, log_mels, None) == as_peft_writes(tiny_base_dir, None, log_mels)
        engine.close()


def test_a_model_of_few_tokens_has_the_rows_of_saved_layers(saved, tiny_base_dir, tmp_path, log_mels, tokens):
    convert(tiny_base_dir, saved, "float32", tmp_path / "few", ("Devanagari",))
    kept = kept_tokens(tmp_path / "few")
    assert kept is not None and len(kept) <= Vocabulary.read(tiny_base_dir).size
    engine = CTranslate2Engine.load(tiny_base_dir, saved, quantization="none", cache_dir=tmp_path)
    assert tokens(engine, log_mels) == as_peft_writes(tiny_base_dir, saved.adapter_dir, log_mels)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model.", ""])
def test_an_adapter_of_a_wrapped_model_is_served_as_what_it_is(
    prefix, tiny_base_dir, tiny_artifact_dir, log_mels, tmp_path, tokens
):
    odd = shutil.copytree(tiny_artifact_dir, tmp_path / "odd")
    weights = odd / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    bare = {
        name.removeprefix("" if prefix else "base_model.model."): tensor for name, tensor in tensors.items()
    }
    save_file({prefix + name: tensor for name, tensor in bare.items()}, weights)
    expected = as_peft_writes(tiny_base_dir, tiny_artifact_dir / "adapter", log_mels)
    for engine in engines(tiny_base_dir, load_artifact(odd), tmp_path):
        assert tokens(engine, log_mels) == expected
        engine.close()


def test_half_an_adapter_is_refused_by_both_engines(tiny_base_dir, tiny_artifact_dir, tmp_path):
    half = shutil.copytree(tiny_artifact_dir, tmp_path / "half")
    weights = half / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file({name: tensor for name, tensor in tensors.items() if "encoder.layers" not in name}, weights)
    with pytest.raises(ConversionError, match=r"lacks 'model\.encoder\.layers\.0.*lora_A\.weight'"):
        CTranslate2Engine.load(tiny_base_dir, load_artifact(half), quantization="none", cache_dir=tmp_path)
    with pytest.raises(ArtifactError, match=r"lacks 'model\.encoder\.layers\.0.*lora_A\.weight'"):
        TransformersEngine.load(tiny_base_dir, half / "adapter", quantization="none")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda t: {n: v for n, v in t.items() if "encoder.layers.1.fc1" not in n}, r"lack 'model\.encoder"),
        (lambda t: t | {"model.encoder.layers.2.fc1.bias": torch.zeros(128)}, r"layers\.2\.fc1\.bias"),
        (lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()}, "lack 'model"),
    ],
)
def test_a_base_model_whose_weights_are_not_those_of_its_config_is_refused(
    change, refusal, tiny_base_dir, tmp_path
):
    base = shutil.copytree(tiny_base_dir, tmp_path / "base")
    tensors = change(load_file(base / "model.safetensors"))
    (base / "model.safetensors").unlink()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=refusal):
        CTranslate2Engine.load(base, quantization="none", cache_dir=tmp_path / "cache")
    with pytest.raises(BaseModelError, match=refusal):
        TransformersEngine.load(base, quantization="none")
