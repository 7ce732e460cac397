"""The tokens that a sampled softmax runs over, against the softmax over all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from serve.engine.vocabulary import Vocabulary
from train.examples.candidates import CandidateTokens
from train.examples.targets import text_tokens
from train.model.output_loss import output_loss

TEXTS = ["आई घरी आहे", "पाऊस आला", "रस्त्यावर गर्दी होती"]


@pytest.fixture(scope="module")
def vocabulary(whisper_base_dir):
    return Vocabulary.read(whisper_base_dir)


def draw(vocabulary, n_sampled, seed=0):
    needed = text_tokens(vocabulary, TEXTS).distinct
    return CandidateTokens(vocabulary, needed, n_sampled).draw(np.random.default_rng(seed))


def test_tokens_of_the_texts_and_special_tokens_are_always_candidates(vocabulary):
    candidates = draw(vocabulary, 100)
    tokens = candidates.tokens.tolist()
    assert tokens == sorted(set(tokens))
    needed = {token for text in TEXTS for each in (text, f" {text}") for token in vocabulary.encode(each)}
    assert needed | set(range(vocabulary.end, vocabulary.size)) <= set(tokens)
    assert len(tokens) == len(needed) + vocabulary.size - vocabulary.end + 100


def test_candidates_stand_for_the_whole_vocabulary(vocabulary):
    assert draw(vocabulary, 100).log_counts.exp().sum().item() == pytest.approx(vocabulary.size, rel=1e-4)
    everything = draw(vocabulary, vocabulary.size)
    assert everything.tokens.tolist() == list(range(vocabulary.size)) and not everything.log_counts.any()


def test_the_same_generator_draws_the_same_and_another_others(vocabulary):
    assert torch.equal(draw(vocabulary, 50).tokens, draw(vocabulary, 50).tokens)
    assert not torch.equal(draw(vocabulary, 50).tokens, draw(vocabulary, 50, seed=1).tokens)


def test_the_sampled_loss_and_gradient_are_near_those_of_the_whole_vocabulary(vocabulary):
    torch.manual_seed(0)
    hidden = torch.randn(40, 32, requires_grad=True)
    weight = 0.2 * torch.randn(vocabulary.size, 32)
    labels = torch.tensor([vocabulary.encode(TEXTS[row % 3])[row % 4] for row in range(40)])
    whole = output_loss(hidden, weight, labels, torch.float32)
    assert whole.item() == pytest.approx(F.cross_entropy(hidden @ weight.T, labels, reduction="sum").item())
    (wanted,) = torch.autograd.grad(whole, hidden)
    losses, gradients = [], []
    for seed in range(8):
        candidates = draw(vocabulary, 2_048, seed)
        loss = output_loss(
            hidden,
            weight[candidates.tokens],
            torch.searchsorted(candidates.tokens, labels),
            torch.float32,
            candidates.log_counts,
        )
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, hidden)[0])
    assert np.mean(losses) == pytest.approx(whole.item(), rel=0.01)
    assert (
        torch.nn.functional.cosine_similarity(
            torch.stack(gradients).mean(0).flatten(), wanted.flatten(), dim=0
        ).item()
        > 0.999
    )
