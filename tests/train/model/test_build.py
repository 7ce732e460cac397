"""The model to train: what is frozen, what is not, and the loss of a batch."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch

from train.errors import TrainConfigError
from train.examples.batches import ExamplePlan
from train.examples.collate import IGNORED
from train.model.build import batch_loss
from train.model.fused_lora import FusedLoraLinear

CPU = torch.device("cpu")
EXAMPLES = [ExamplePlan(clips=(clip,), duration_s=1.0) for clip in (0, 5, 9)]


def adapters(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def test_only_the_adapters_are_trained(tiny_config, tiny_model):
    model = tiny_model(tiny_config(lora_targets=("q_proj", "fc1")))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == adapters(model).keys()
    assert len(trained) == 2 * (2 * 3 + 2 * 2)  # A and B; q_proj in 2 + 2 x 2 attentions, fc1 in 4 layers
    assert all(p.dtype == torch.float32 for p in adapters(model).values())


def test_a_fresh_adapter_changes_nothing(tiny_config, tiny_model, tiny_collator):
    model = tiny_model(config := tiny_config())
    batch = tiny_collator(config).collate(EXAMPLES, (0, 0))
    loss, _ = batch_loss(model, batch, CPU)
    with model.disable_adapter():
        base_loss, _ = batch_loss(model, batch, CPU)
    assert loss.item() == pytest.approx(base_loss.item(), rel=1e-6)


@pytest.mark.parametrize("context", ["dynamic", "fixed"])
def test_the_loss_is_that_of_transformers(tiny_config, tiny_model, tiny_collator, context):
    model = tiny_model(config := tiny_config(encoder_context=context))
    batch = tiny_collator(config).collate(EXAMPLES, (0, 0))
    loss, n_tokens = batch_loss(model, batch, CPU)
    whisper = model.get_base_model()
    output = whisper(
        input_features=batch.log_mel, decoder_input_ids=batch.decoder_input_ids, labels=batch.labels
    )
    assert n_tokens == int((batch.labels != IGNORED).sum())
    assert loss.item() / n_tokens == pytest.approx(output.loss.item(), rel=1e-5)


def test_padded_text_carries_no_loss(tiny_config, tiny_model, tiny_collator):
    model = tiny_model(config := tiny_config(encoder_context="fixed"))
    data = tiny_collator(config, augmented=False)
    data.clips = [data.clips[0], msgspec.structs.replace(data.clips[1], text="क ख ग घ च छ ज झ")]
    examples = [ExamplePlan(clips=(clip,), duration_s=1.0) for clip in (0, 1)]
    loss, n_tokens = batch_loss(model, data.collate(examples, (0, 0)), CPU)
    apart = [batch_loss(model, data.collate([example], (0, 0)), CPU) for example in examples]
    assert n_tokens == sum(n for _, n in apart) == (3 + 1) + (8 + 1)
    assert loss.item() == pytest.approx(sum(single.item() for single, _ in apart), rel=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_config, tiny_model, tiny_collator):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(config := tiny_config(gradient_checkpointing=checkpointing)).train()
        batch_loss(model, tiny_collator(config).collate(EXAMPLES, (0, 0)), CPU)[0].backward()
        gradients.append({name: p.grad for name, p in adapters(model).items()})
    assert all(gradient is not None for gradient in gradients[1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_gradient_checkpointing_computes_the_layers_twice(tiny_config, tiny_model, tiny_collator):
    calls = []
    model = tiny_model(config := tiny_config(gradient_checkpointing=True, quantization="int8")).train()
    for layer in (*model.get_base_model().model.encoder.layers, *model.get_base_model().model.decoder.layers):
        layer.final_layer_norm.register_forward_pre_hook(lambda *_: calls.append(1))
    batch_loss(model, tiny_collator(config).collate(EXAMPLES, (0, 0)), CPU)[0].backward()
    assert len(calls) == 2 * 4
    assert all(p.grad is not None for p in adapters(model).values())


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "adalora"])
def test_every_method_begins_as_the_base_and_learns(
    tiny_config, tiny_model, tiny_collator, method, quantization
):
    config = tiny_config(lora_method=method, quantization=quantization, lora_dropout=0.1)
    model = tiny_model(config)
    batch = tiny_collator(config).collate(EXAMPLES, (0, 0))
    loss, _ = batch_loss(model, batch, CPU)
    with model.disable_adapter():
        base_loss, _ = batch_loss(model, batch, CPU)
    assert loss.item() == pytest.approx(base_loss.item(), rel=1e-4)
    batch_loss(model.train(), batch, CPU)[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_all_linear_takes_every_layer_but_the_output(tiny_config, tiny_model, quantization):
    model = tiny_model(tiny_config(lora_targets=("all-linear",), quantization=quantization))
    adapted = {
        name.partition(".lora_A")[0].rpartition(".")[2] for name in adapters(model) if "lora_A" in name
    }
    assert adapted == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}


def test_a_base_in_bfloat16_is_half_as_large_and_hears_nearly_the_same(
    tiny_config, tiny_model, tiny_collator
):
    losses = []
    for precision in ("float32", "bfloat16"):
        model = tiny_model(config := tiny_config(precision=precision)).train()
        loss, _ = batch_loss(model, tiny_collator(config).collate(EXAMPLES, (0, 0)), CPU)
        loss.backward()
        losses.append(loss.item())
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in adapters(model).values())
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it, on the way
def test_compiled_layers_give_the_same_gradients_for_windows_of_any_length(
    tiny_config, tiny_model, tiny_collator
):
    config = tiny_config()
    plain, compiled = (
        tiny_model(dataclasses.replace(config, compile=wanted)).train() for wanted in (False, True)
    )
    for number in range(3):
        batch = tiny_collator(config).collate(EXAMPLES, (0, number))
        for model in (plain, compiled):
            model.zero_grad()
            batch_loss(model, batch, CPU)[0].backward()
        for name, p in adapters(compiled).items():
            torch.testing.assert_close(p.grad, adapters(plain)[name].grad, rtol=1e-3, atol=1e-3, msg=name)


def test_compiling_without_a_compiler_is_refused(tiny_config, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TrainConfigError, match="needs a C compiler"):
        tiny_model(tiny_config(compile=True))


def test_layers_are_fused_unless_they_drop_out(tiny_config, tiny_model):
    def count_fused(config):
        return sum(isinstance(module, FusedLoraLinear) for module in tiny_model(config).modules())

    assert count_fused(tiny_config()) == len(adapters(tiny_model(tiny_config()))) // 2
    assert count_fused(tiny_config(lora_dropout=0.1)) == 0


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantised_base_is_trained_through_and_stays_as_it_is(
    tiny_config, tiny_model, tiny_collator, quantization
):
    model = tiny_model(config := tiny_config(quantization=quantization)).train()
    quantised = {
        name: module for name, module in model.named_modules() if "bit" in type(module).__name__.lower()
    }
    assert any("fc2" in name for name in quantised) and not any("proj_out" in name for name in quantised)
    base = {name: p for name, p in model.named_parameters() if "lora_" not in name}
    before = {name: p.detach().clone() for name, p in base.items()}
    for parameter in (p for name, p in adapters(model).items() if "lora_B" in name):
        torch.nn.init.normal_(parameter, std=0.1)  # zeros would stop the gradients of A

    loss, _ = batch_loss(model, tiny_collator(config).collate(EXAMPLES, (0, 0)), CPU)
    loss.backward()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for name, parameter in adapters(model).items():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in base.values())
    optimiser.step()
    assert all(torch.equal(before[name], p) for name, p in base.items())
