"""Which layers an adapter changes, and that what peft writes of it is served as it was trained."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import WhisperConfig, WhisperForConditionalGeneration

from serve.engine.ctranslate2.merging import merge
from serve.model.artifact import load_artifact
from train.config import BlockConfig, load_config
from train.errors import TrainConfigError
from train.examples.batches import ExamplePlan
from train.export.artifact import export_artifact
from train.loop.loop import Outcome
from train.model.adapter import adapter_config, check_layers
from train.model.build import batch_loss
from train.model.fused_lora import FusedLoraLinear

CPU = torch.device("cpu")
EXAMPLES = [ExamplePlan(clips=(clip,), duration_s=1.0) for clip in (0, 5, 9)]
OUTCOME = Outcome(step=6, total_steps=6, samples=40, skipped_batches=0, trained_s=1.0, finished=True)
APART = {
    "encoder": BlockConfig(rank=2, alpha=6, layers=(1,), targets=("q_proj", "fc2")),
    "decoder": BlockConfig(targets=("all-linear",)),
}


def adapted(model):
    """Return the rank of each adapted module, by its name in Whisper."""
    return {
        name.partition(".lora_A")[0].removeprefix("base_model.model.model."): len(p)
        for name, p in model.named_parameters()
        if "lora_A" in name
    }


def test_a_block_of_rank_0_is_left_as_it_is(tiny_config, tiny_model):
    for untouched, trained in (("encoder", "decoder"), ("decoder", "encoder")):
        names = adapted(tiny_model(tiny_config(**{untouched: BlockConfig(rank=0)})))
        assert names and all(name.startswith(f"{trained}.") for name in names)


def test_blocks_have_their_own_layers_targets_and_ranks(tiny_config, tiny_model):
    ranks = adapted(model := tiny_model(tiny_config(**APART)))
    encoder = {name: rank for name, rank in ranks.items() if name.startswith("encoder.")}
    assert encoder == {"encoder.layers.1.self_attn.q_proj": 2, "encoder.layers.1.fc2": 2}
    assert {rank for name, rank in ranks.items() if name not in encoder} == {4}
    assert len(ranks) - len(encoder) == 2 * (4 + 4 + 2)  # two attentions and a feed-forward part each
    layers = [module for module in model.modules() if isinstance(module, FusedLoraLinear)]
    assert {(module.r["default"], module.scaling["default"]) for module in layers} == {(2, 3.0), (4, 2.0)}
    assert len(layers) == len(ranks)


def test_a_target_may_name_one_of_two_attentions(tiny_config, tiny_model):
    config = tiny_config(
        encoder=BlockConfig(rank=0), decoder=BlockConfig(targets=("encoder_attn.q_proj",), layers=(0,))
    )
    assert adapted(tiny_model(config)).keys() == {"decoder.layers.0.encoder_attn.q_proj"}


@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize(
    "blocks", [APART, {"encoder": BlockConfig(rank=0)}, {"decoder": BlockConfig(rank=2)}]
)
def test_what_peft_writes_is_loaded_and_merged_as_it_was_trained(
    tiny_config, tiny_model, tiny_collator, tiny_base_dir, blocks, method
):
    config = tiny_config(lora_method=method, **blocks)
    model = tiny_model(config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter).mul(0.3).half().float()  # as they are saved
    batch = tiny_collator(config, augmented=False).collate(EXAMPLES, (0, 0))
    artifact = load_artifact(export_artifact(model, tiny_base_dir, config, OUTCOME, ["क"]))
    base = WhisperForConditionalGeneration.from_pretrained(tiny_base_dir)
    frames = batch.log_mel.shape[-1]
    padded = torch.from_numpy(np.pad(batch.log_mel.numpy(), ((0, 0), (0, 0), (0, 3000 - frames))))

    def logits(whisper):
        with torch.inference_mode():
            return whisper(input_features=padded, decoder_input_ids=batch.decoder_input_ids).logits

    trained = logits(model.get_base_model())
    beside = logits(PeftModel.from_pretrained(base, str(artifact.adapter_dir)).get_base_model().eval())
    merged = logits(merge(tiny_base_dir, artifact).eval())
    for served in (beside, merged):
        torch.testing.assert_close(served, trained, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(logits(tiny_base(tiny_base_dir)), trained, atol=0.1)


def tiny_base(directory):
    return WhisperForConditionalGeneration.from_pretrained(directory).eval()


def test_no_gradient_is_computed_through_what_is_not_trained(tiny_config, tiny_model, tiny_collator):
    model = tiny_model(config := tiny_config(encoder=BlockConfig(rank=0))).train()
    batch = tiny_collator(config).collate(EXAMPLES, (0, 0))
    encoder = model.get_base_model().model.encoder
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        assert not encoder(batch.log_mel).last_hidden_state.requires_grad
    batch_loss(model, batch, CPU)[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    late = tiny_model(tiny_config(encoder=BlockConfig(layers=(1,)))).get_base_model().model.encoder
    first = late.layers[0](torch.zeros(1, 10, late.config.d_model), None)
    assert not first.requires_grad and late.layers[1](first, None).requires_grad


def refuse(_):
    raise AssertionError("something was kept for a backward pass")


def test_layers_that_the_base_does_not_have_are_named(tiny_config, tiny_model):
    config = tiny_config(encoder=BlockConfig(layers=(0, 7)), decoder=BlockConfig(layers=(2,)))
    with pytest.raises(TrainConfigError) as caught:
        tiny_model(config)
    assert "encoder.layers names 7; the encoder of" in caught.value.faults[0]
    assert "has the layers 0 to 1" in caught.value.faults[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_targets": ("q_proj", "vproj")}, ["lora_targets names vproj, .* of the encoder or decoder"]),
        ({"lora_targets": ("vproj",)}, ["lora_targets names vproj"]),
        (
            {"encoder": BlockConfig(targets=("encoder_attn.q_proj", "fc1"))},
            [r"encoder\.targets names encoder_attn\.q_proj, which no adapted layer of the encoder has"],
        ),
        (
            {"encoder": BlockConfig(rank=0), "lora_targets": ("fc3", "layers.0.fc1")},
            ["fc3, .* of the decoder", r"layers\.0\.fc1"],
        ),
        (
            {"encoder": BlockConfig(rank=2, targets=("fc",)), "decoder": BlockConfig(targets=("self_attn",))},
            [r"encoder\.targets names fc,", r"decoder\.targets names self_attn,"],
        ),
    ],
)
def test_targets_that_no_adapted_layer_has_are_named(tiny_config, tiny_model, changes, named):
    with pytest.raises(TrainConfigError) as caught:
        tiny_model(tiny_config(**changes))
    assert len(caught.value.faults) == len(named)
    assert all(re.search(each, fault) for each, fault in zip(named, caught.value.faults, strict=True))


def test_a_target_for_both_blocks_may_be_in_one_of_them_alone(tiny_config, tiny_model):
    config = tiny_config(lora_targets=("encoder_attn.q_proj", "fc1"), encoder=BlockConfig(layers=(1,)))
    names = adapted(tiny_model(config))
    assert {name.partition("layers.")[2] for name in names if name.startswith("encoder.")} == {"1.fc1"}
    assert len(names) == 1 + 2 * 2


LARGE_V2 = {
    **{"d_model": 1280, "vocab_size": 51865, "num_mel_bins": 80},
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 5120),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 20),
}


@pytest.mark.parametrize(
    ("changes", "n_trained"),
    [
        (
            {},
            32 * (2 + 4) * 32 * 2 * 1280,
        ),  # q and v of one attention, and of two: 15.7 million
        ({"encoder": BlockConfig(rank=0)}, 32 * 4 * 32 * 2 * 1280),
        ({"encoder": BlockConfig(rank=8, layers=(30, 31))}, (32 * 4 * 32 + 2 * 2 * 8) * 2 * 1280),
        (
            {"encoder": BlockConfig(rank=0), "decoder": BlockConfig(targets=("fc1", "fc2"))},
            32 * 2 * 32 * (1280 + 5120),
        ),
    ],
)
def test_the_shapes_of_large_v2_are_adapted_block_by_block(changes, n_trained):
    shipped = load_config(Path(__file__).parents[3] / "train" / "configs" / "whisper-large-v2-mr.yaml")
    config = dataclasses.replace(shipped, **changes)
    whisper = WhisperConfig(**LARGE_V2)
    check_layers(config, whisper)
    with torch.device("meta"):  # shapes alone: the weights would be six gigabytes
        model = get_peft_model(WhisperForConditionalGeneration(whisper), adapter_config(config))
    assert model.get_nb_trainable_parameters()[0] == n_trained
