"""Decode encoder output to tokens, one token at a time, for a batch. Knows no audio and no text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from serve.engine.repetition import RepetitionWatch
from serve.engine.transformers.cached_decoder import CachedDecoder, DecoderState

COMPACT_BELOW = 0.75
"""Finished rows are removed once at most this share is unfinished: removal copies every cached key."""


@dataclass(frozen=True, kw_only=True)
class SearchRules:
    """The allowed tokens, as additive masks over the vocabulary, (n_vocabulary,) of 0 and -inf."""

    end: int
    no_speech: int
    mask: Tensor
    first_mask: Tensor
    """Added to `mask` at the first token only."""

    def without(self, tokens: list[int]) -> SearchRules:
        """Return rules that also forbid these tokens."""
        if not tokens:
            return self
        mask = self.mask.clone()
        mask[tokens] = -torch.inf
        return replace(self, mask=mask)

    def going_on(self) -> SearchRules:
        """Return rules for prompts that end with text: any token may come first, the end too."""
        return replace(self, first_mask=torch.zeros_like(self.first_mask))


@dataclass(kw_only=True)
class Row:
    """One window being decoded; `search` fills in the results."""

    max_new_tokens: int
    temperature: float
    seed: int
    tokens: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0
    n_scored: int = 0
    no_speech_prob: float = 0.0
    truncated: bool = False
    may_loop: Callable[[], bool] = lambda: False
    """Asked once, when the text begins to loop: whether to go on all the same."""
    loops: bool = False
    """It was allowed to."""

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability per token, the end token included."""
        return self.sum_logprob / max(1, self.n_scored)


def search(
    decoder: CachedDecoder,
    state: DecoderState,
    prompts: Tensor,
    n_prefix: int,
    rows: Sequence[Row],
    rules: SearchRules,
) -> None:
    """Decode every row to its end token, its token limit or, unless it may loop, its first loop.

    Args:
        state: Empty, with the same rows.
        prompts: (n_rows, n_prompt) int64, all of one length.
        n_prefix: Tokens of previous text in the prompts; the start token follows them.
        rows: Filled in place.
    """
    logits = decoder.step(
        prompts, state, n_logits=prompts.shape[1] - n_prefix
    )  # (n_rows, 2 or 4, n_vocabulary)
    no_speech = logits[:, 0].float().softmax(dim=-1)[:, rules.no_speech].tolist()
    for row, probability in zip(rows, no_speech, strict=True):
        row.no_speech_prob = probability

    watches = [RepetitionWatch() for _ in rows]
    generators = [torch.Generator(device=prompts.device).manual_seed(row.seed) for row in rows]
    in_batch = list(range(len(rows)))  # position in the batch -> row
    going = set(in_batch)
    mask = rules.mask + rules.first_mask
    while True:
        scores = logits[:, -1].float() + mask
        mask = rules.mask
        logprobs = scores.log_softmax(dim=-1)
        tokens = logprobs.argmax(dim=-1)
        for position, index in enumerate(in_batch):
            if index in going and (temperature := rows[index].temperature) > 0:
                drawn = torch.multinomial(
                    (scores[position] / temperature).softmax(-1), 1, generator=generators[index]
                )
                tokens[position] = drawn[0]
        picked = logprobs.gather(1, tokens[:, None])[:, 0]
        for index, token, logprob in zip(in_batch, tokens.tolist(), picked.tolist(), strict=True):
            if index in going and _ends(rows[index], watches[index], token, logprob, rules.end):
                going.discard(index)
        if not going:
            return
        if len(going) <= COMPACT_BELOW * len(in_batch):
            kept = [position for position, index in enumerate(in_batch) if index in going]
            positions = torch.tensor(kept, device=prompts.device)
            state.keep_rows(positions)
            tokens, in_batch = tokens[positions], [in_batch[position] for position in kept]
        logits = decoder.step(tokens[:, None], state)


def _ends(row: Row, watch: RepetitionWatch, token: int, logprob: float, end: int) -> bool:
    """Record one token; return whether the row is finished."""
    row.sum_logprob += logprob if math.isfinite(logprob) else 0.0
    row.n_scored += 1
    if token == end:
        return True
    row.tokens.append(token)
    if not row.loops and watch.push(token) is not None:
        row.loops = row.may_loop()
        if not row.loops:
            return True
    row.truncated = len(row.tokens) >= row.max_new_tokens
    return row.truncated
