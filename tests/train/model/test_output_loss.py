"""The loss that never holds all logits, against torch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from train.model.output_loss import output_loss


@pytest.mark.parametrize("n_rows", [1, 64, 150])
def test_loss_and_gradient_are_those_of_cross_entropy(n_rows):
    torch.manual_seed(0)
    hidden = torch.randn(n_rows, 16, dtype=torch.float64, requires_grad=True)
    weight, labels = torch.randn(500, 16, dtype=torch.float64), torch.randint(0, 500, (n_rows,))
    loss = output_loss(hidden, weight, labels, torch.float64)
    (gradient,) = torch.autograd.grad(3 * loss, hidden)
    wanted = F.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(3 * wanted, hidden)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)


def test_products_in_bfloat16_change_the_loss_by_rounding_alone():
    torch.manual_seed(0)
    hidden = torch.randn(100, 64, requires_grad=True)
    weight, labels = 0.1 * torch.randn(500, 64), torch.randint(0, 500, (100,))
    exact = output_loss(hidden, weight, labels, torch.float32)
    rounded = output_loss(hidden, weight, labels, torch.bfloat16)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=5e-3)
    (gradient,) = torch.autograd.grad(rounded, hidden)
    assert gradient.dtype == torch.float32


def test_without_a_gradient_the_loss_is_the_same():
    hidden, weight, labels = torch.randn(70, 8), torch.randn(50, 8), torch.randint(0, 50, (70,))
    with torch.inference_mode():
        alone = output_loss(hidden, weight, labels, torch.float32)
    torch.testing.assert_close(
        alone, output_loss(hidden.requires_grad_(), weight, labels, torch.float32).detach()
    )
