"""The fused product against peft's own three products."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from train.model import fused_lora
from train.model.fused_lora import FusedLoraLinear, _filled_rows, fuse_lora


class Layers(nn.Module):
    """Two linear layers, one of them without bias."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 16)
        self.second = nn.Linear(16, 8, bias=False)

    def forward(self, x):
        return self.second(nn.functional.gelu(self.first(x)))


def adapted(**lora):
    torch.manual_seed(0)
    model = get_peft_model(
        Layers(), LoraConfig(r=4, lora_alpha=16, target_modules=["first", "second"], **lora)
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def outputs_and_gradients(model, x):
    x = x.clone().requires_grad_()
    output = model(x)
    output.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return output.detach(), {**gradients, "input": x.grad}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("shape", [(5, 24), (3, 7, 24)])
def test_outputs_and_gradients_are_those_of_peft(use_rslora, shape):
    plain = adapted(use_rslora=use_rslora).double()  # so that rounding hides nothing
    fused = copy.deepcopy(plain)
    assert fuse_lora(fused) == 2
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output, gradients = outputs_and_gradients(plain, x)
    fused_output, fused_gradients = outputs_and_gradients(fused, x)
    torch.testing.assert_close(fused_output, output, atol=1e-10, rtol=1e-10)
    assert fused_gradients.keys() == gradients.keys()
    assert sum("lora_" in name for name in gradients) == 4
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, atol=1e-10, rtol=1e-10)


def test_names_and_saved_weights_stay_the_same():
    model = adapted()
    before = model.state_dict()
    fuse_lora(model)
    assert isinstance(model.base_model.model.first, FusedLoraLinear)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_switched_off_adapter_leaves_the_base():
    model = adapted()
    fuse_lora(model)
    x = torch.randn(5, 24)
    layer = model.base_model.model.first
    with model.disable_adapter():
        torch.testing.assert_close(layer(x), layer.base_layer(x))
    assert not torch.allclose(layer(x), layer.base_layer(x), atol=1e-3)


def test_single_precision_differs_by_rounding_alone():
    plain = adapted()
    fused = copy.deepcopy(plain)
    fuse_lora(fused)
    output, gradients = outputs_and_gradients(plain, x := torch.randn(5, 24))
    fused_output, fused_gradients = outputs_and_gradients(fused, x)
    torch.testing.assert_close(fused_output, output, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).abs().max() < 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("n_rows", [1, 256, 300])
def test_rows_that_are_filled_up_change_nothing(monkeypatch, n_rows):
    model = adapted()
    fuse_lora(model)
    x = torch.randn(n_rows, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, gradients = outputs_and_gradients(model, x)
        model.zero_grad()
        monkeypatch.setattr(fused_lora, "_ROWS_STEP", 1)
        unfilled_output, unfilled_gradients = outputs_and_gradients(model, x)
    assert output.dtype == torch.bfloat16 and output.shape == (n_rows, 8)
    torch.testing.assert_close(output, unfilled_output)
    for name, gradient in unfilled_gradients.items():
        # Sums over rows may be taken in another order.
        assert (gradients[name] - gradient).abs().max() < 0.02 * gradient.abs().max()


def test_products_of_many_batches_have_few_shapes():
    rows = [len(_filled_rows(torch.zeros(n_rows, 24), torch.bfloat16)) for n_rows in range(1, 1_500, 7)]
    assert set(rows) == {256, 512, 768, 1_024, 1_280, 1_536}
    assert len(_filled_rows(torch.zeros(5, 24), torch.float32)) == 5  # which oneDNN does not multiply


def test_a_norm_gives_what_is_multiplied_next():
    model = get_peft_model(
        nn.ModuleDict({"norm": nn.LayerNorm(24), "first": nn.Linear(24, 16)}),
        LoraConfig(target_modules=["first"]),
    )
    names = model.state_dict().keys()
    norm, x = model.base_model.model["norm"], torch.randn(5, 24)
    before = norm(x)
    fuse_lora(model)
    assert model.state_dict().keys() == names and torch.equal(norm(x), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(norm(x), before.bfloat16())


def test_a_merged_adapter_gives_the_same_output():
    model = adapted()
    fuse_lora(model)
    x = torch.randn(5, 24)
    before = model(x)
    model.merge_adapter()
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_dropout_and_dora_are_left_to_peft(lora):
    assert fuse_lora(adapted(**lora)) == 0


def test_a_quantised_base_is_left_to_peft():
    import bitsandbytes

    layers = Layers()
    layers.first = bitsandbytes.nn.Linear8bitLt(24, 16, has_fp16_weights=False)
    model = get_peft_model(layers, LoraConfig(r=4, target_modules=["first", "second"]))
    assert fuse_lora(model) == 1
    assert not isinstance(model.base_model.model.first, FusedLoraLinear)


def test_under_autocast_products_are_in_bfloat16_and_gradients_in_float32():
    model = adapted()
    fuse_lora(model)
    x = torch.randn(64, 24)
    exact, exact_gradients = outputs_and_gradients(model, x)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(x)
    rounded.float().square().sum().backward()
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.05)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.grad.dtype == torch.float32
            error = (parameter.grad - exact_gradients[name]).norm() / exact_gradients[name].norm()
            assert error < 0.05
