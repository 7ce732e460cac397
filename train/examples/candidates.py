"""Choose the tokens that a batch's softmax runs over, where it does not run over the whole vocabulary.

Whisper's output layer knows 51,865 tokens. Marathi needs some hundreds of them, and on a CPU the product
with all rows is a third of a training step. So the softmax runs over the tokens that the training texts hold
and over a random sample of the others. Each sampled token stands for many: its logit rises by the logarithm
of their number, and the sum over the sample is on average the sum over all (Jean et al. 2015, arXiv
1412.2007). Foreign tokens stay improbable, also for programs that decode with the whole vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from serve.engine.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The tokens of one softmax."""

    tokens: torch.Tensor
    """(n_candidates,) int64, ascending."""
    log_counts: torch.Tensor
    """(n_candidates,) float32: logarithm of the number of tokens that each one stands for."""


class CandidateTokens:
    """Draws the candidates of each batch: every token of the training texts, special tokens, and a sample."""

    def __init__(self, vocabulary: Vocabulary, needed: frozenset[int], n_sampled: int) -> None:
        """Take the tokens of the training texts, and how many of the others are drawn for a batch."""
        is_needed = np.zeros(vocabulary.size, bool)
        is_needed[vocabulary.end :] = True
        is_needed[np.fromiter(needed, int)] = True
        self._needed, self._others = np.flatnonzero(is_needed), np.flatnonzero(~is_needed)
        self._n_sampled = min(n_sampled, len(self._others))

    def draw(self, rng: np.random.Generator) -> Candidates:
        """Return the candidates of one batch."""
        sampled = rng.choice(self._others, self._n_sampled, replace=False)
        tokens = np.concatenate([self._needed, sampled])
        log_counts = np.zeros(len(tokens), np.float32)
        if self._n_sampled:
            log_counts[len(self._needed) :] = math.log(len(self._others) / self._n_sampled)
        order = np.argsort(tokens)
        return Candidates(
            tokens=torch.from_numpy(tokens[order]), log_counts=torch.from_numpy(log_counts[order])
        )
