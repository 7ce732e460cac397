"""The reference engine, on a random Whisper of two layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt

from serve.audio.features import FeatureExtractor, pad_with_silence
from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput
from serve.engine.transformers.engine import TransformersEngine
from serve.errors import ArtifactError, BaseModelError

MARATHI = DecodingOptions(language="mr", max_new_tokens=12)
TUNED = replace(MARATHI, adapter=SERVED_ADAPTER)


@pytest.fixture(scope="module")
def features(tiny_base_dir):
    return FeatureExtractor(tiny_base_dir)


@pytest.fixture(scope="module")
def base(tiny_base_dir):
    return TransformersEngine.load(tiny_base_dir, quantization="none", dynamic=True)


@pytest.fixture(scope="module")
def adapted(tiny_base_dir, tiny_artifact_dir):
    adapter_dir = tiny_artifact_dir / "adapter"
    return TransformersEngine.load(tiny_base_dir, adapter_dir, quantization="none", dynamic=True)


@pytest.fixture(scope="module")
def log_mels(features):
    rng = np.random.default_rng(0)
    return [features.log_mel(rng.normal(0, 0.1, 16_000).astype(np.float32), 2.0) for _ in range(4)]


def greedy_without_cache(engine, log_mel, n_tokens):
    """Decode as simply as possible: the whole sequence again for every token."""
    model, vocabulary = engine._model, engine._vocabulary
    tokens = vocabulary.prompt("mr", "transcribe")
    n_prompt = len(tokens)
    with torch.no_grad():
        encoder_output = model.model.encoder(torch.from_numpy(log_mel)[None]).last_hidden_state
        while len(tokens) < n_prompt + n_tokens:
            hidden = model.model.decoder(torch.tensor([tokens]), encoder_hidden_states=encoder_output)
            scores = model.proj_out(hidden.last_hidden_state)[0, -1]
            scores[vocabulary.suppressed] = -torch.inf
            if len(tokens) == n_prompt:
                scores[vocabulary.suppressed_first] = -torch.inf
            token = int(scores.argmax())
            if token == vocabulary.end:
                break
            tokens.append(token)
    return tuple(tokens[n_prompt:])


def test_the_cached_decoder_finds_what_decoding_anew_finds(base, log_mels, decode):
    for hypothesis, log_mel in zip(decode(base, log_mels, [MARATHI] * 4), log_mels, strict=True):
        assert hypothesis.tokens == greedy_without_cache(base, log_mel, 12)


def test_windows_decoded_together_give_what_they_give_alone(base, log_mels, decode):
    options = [replace(MARATHI, max_new_tokens=limit) for limit in (3, 30, 1, 12)]
    together = decode(base, log_mels, options)
    for log_mel, option, found in zip(log_mels, options, together, strict=True):
        (alone,) = decode(base, [log_mel], [option])
        assert found.tokens == alone.tokens
        assert len(found.tokens) <= option.max_new_tokens
        assert found.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-4)
        assert found.no_speech_prob == pytest.approx(alone.no_speech_prob, abs=1e-4)


def test_text_that_reaches_its_limit_says_so(base, log_mels, decode):
    (hypothesis,) = decode(base, log_mels[:1], [replace(MARATHI, max_new_tokens=2)])
    assert len(hypothesis.tokens) == 2
    assert hypothesis.truncated


def test_decoding_ends_within_the_context_whatever_is_asked(base, log_mels, decode):
    rambling = replace(MARATHI, max_new_tokens=10_000, prompt="क " * 300, temperature=1.0)
    (hypothesis,) = decode(base, log_mels[:1], [rambling])
    assert len(hypothesis.tokens) <= 448 - 223


def test_a_language_not_named_is_detected_with_its_probability(base, log_mels, decode):
    whole_window = pad_with_silence(log_mels[1], 3000)  # as the base model was trained to hear it
    window = EngineInput(log_mel=whole_window, options=replace(MARATHI, language=None))
    (probs,) = base.detect_language([window])
    assert set(probs) == base.languages == {"en", "hi", "mr"}
    assert sum(probs.values()) == pytest.approx(1) and min(probs.values()) > 0
    language = max(probs, key=probs.get)
    assert window.encoded is not None
    named = replace(MARATHI, language=language)
    (found,) = base.decode([replace(window, options=named)])
    (again,) = decode(base, [whole_window], [named])
    assert again.tokens == found.tokens


def test_a_prompt_changes_the_text_of_its_own_window_only(base, log_mels, decode):
    prompted = replace(MARATHI, prompt="क ख ग घ")
    plain, hinted = decode(base, [log_mels[0]] * 2, [MARATHI, prompted])
    assert plain.tokens != hinted.tokens
    assert plain.tokens == decode(base, log_mels[:1], [MARATHI])[0].tokens


def test_drawn_text_depends_on_the_seed_and_on_nothing_else(base, log_mels, decode):
    drawn = replace(MARATHI, temperature=1.0, max_new_tokens=30)

    def text(seed, batch):
        return decode(base, batch, [replace(drawn, seed=seed)] * len(batch))[0].tokens

    assert text(1, log_mels[:1]) == text(1, log_mels)
    assert len({text(seed, log_mels[:1]) for seed in range(4)}) > 1


def test_the_adapter_is_heard_and_can_be_left_out(base, adapted, log_mels, decode):
    base_tokens = [found.tokens for found in decode(base, log_mels, [MARATHI] * 4)]
    adapted_tokens = [found.tokens for found in decode(adapted, log_mels, [TUNED] * 4)]
    assert adapted_tokens != base_tokens
    # One after the other, and again after the adapter was merged into the weights and taken out of them.
    for _ in range(3):
        mixed = decode(adapted, log_mels, [MARATHI, TUNED, MARATHI, TUNED])
        wanted = [base_tokens[0], adapted_tokens[1], base_tokens[2], adapted_tokens[3]]
        assert [found.tokens for found in mixed] == wanted


def test_a_merged_adapter_gives_what_an_unmerged_one_gives(adapted, log_mels, decode):
    merged = decode(adapted, log_mels, [TUNED] * 4)
    adapted._unmerge()
    adapted._merges = False
    try:
        unmerged = decode(adapted, log_mels, [TUNED] * 4)
    finally:
        adapted._merges = True
    assert [found.tokens for found in merged] == [found.tokens for found in unmerged]
    assert merged[0].avg_logprob == pytest.approx(unmerged[0].avg_logprob, abs=1e-3)


@pytest.mark.parametrize(("quantization", "linear"), [("int8", Linear8bitLt), ("int4", Linear4bit)])
def test_a_quantised_base_decodes_on_a_cpu_with_its_adapter_beside_it(
    tiny_base_dir, tiny_artifact_dir, log_mels, quantization, linear, decode
):
    adapter_dir = tiny_artifact_dir / "adapter"
    engine = TransformersEngine.load(tiny_base_dir, adapter_dir, quantization=quantization, dynamic=True)
    query = engine._model.model.encoder.layers[0].self_attn.q_proj
    assert isinstance(query.base_layer, linear)
    with_adapter, without = decode(engine, log_mels[:2], [TUNED, MARATHI])
    assert with_adapter.tokens and without.tokens
    assert not query.merged


def test_int8_weights_stay_close_to_the_unquantised(tiny_base_dir, base, log_mels):
    int8 = TransformersEngine.load(tiny_base_dir, quantization="int8", dynamic=True)
    with torch.no_grad():
        exact, rounded = (
            engine._encode([EngineInput(log_mel=log_mels[0], options=MARATHI)]) for engine in (base, int8)
        )
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).mean() > 0.99


def test_a_checkpoint_that_is_none_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        TransformersEngine.load(tmp_path, quantization="none")


def test_an_adapter_in_a_pickle_is_never_loaded(tiny_base_dir, tiny_artifact_dir, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(
        (tiny_artifact_dir / "adapter/adapter_config.json").read_bytes()
    )
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: the file is missing"):
        TransformersEngine.load(tiny_base_dir, tmp_path, quantization="none")
