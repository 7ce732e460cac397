"""How long a batch will take: learned from those before it. Knows no engine.

A batch costs time for each second of window that is encoded, padding included, and for each token that is
written. Both prices are fitted to the last batches by least squares. How many tokens a window will have is
guessed from the share of their bounds that earlier windows filled.
"""

from __future__ import annotations

from collections import deque

import numpy as np

LAST_BATCHES = 32
"""Batches that the prices are fitted to."""

FORGETTING = 0.95
"""Weight of the fill so far against that of the next batch."""

PRIOR_S_PER_WINDOW_S = 0.03
PRIOR_S_PER_TOKEN = 0.01
PRIOR_FILL = 0.4
"""Whisper-base on two cores, and Marathi speech; the first batches correct them for any other."""

PRIOR_WEIGHT = 0.05
"""Weight of each prior price, against a batch of ten seconds of window and a hundred tokens."""

MAX_SURPRISE = 3.0
"""A batch counts as no more than this many times what it was expected to take: a machine that was busy with
something else says nothing about the price of windows."""

_PRIORS = np.sqrt(PRIOR_WEIGHT) * np.array(
    [(10.0, 0.0, 10.0 * PRIOR_S_PER_WINDOW_S), (0.0, 100.0, 100.0 * PRIOR_S_PER_TOKEN)]
)


class BatchCost:
    """Prices a batch in seconds."""

    def __init__(self) -> None:
        self._fill = PRIOR_FILL
        self._window_price, self._token_price = PRIOR_S_PER_WINDOW_S, PRIOR_S_PER_TOKEN
        self._batches: deque[tuple[float, float, float]] = deque(maxlen=LAST_BATCHES)
        """(window_s, n_tokens, elapsed_s) of each."""

    def expected_s(self, window_s: float, bound_tokens: float) -> float:
        """Return how long a batch will take.

        Args:
            window_s: Seconds of window, padding included, summed over the batch.
            bound_tokens: Most tokens that may be written, summed over the batch.
        """
        return self._window_price * window_s + self._token_price * self._fill * bound_tokens

    def learn(self, window_s: float, bound_tokens: float, n_tokens: int, elapsed_s: float) -> None:
        """Take in a batch that was decoded, `n_tokens` of `bound_tokens` written."""
        expected_s = self._window_price * window_s + self._token_price * n_tokens
        self._batches.append((window_s, n_tokens, min(elapsed_s, MAX_SURPRISE * expected_s + 0.01)))
        self._fit_prices()
        if bound_tokens:
            self._fill += (1 - FORGETTING) * (n_tokens / bound_tokens - self._fill)

    def _fit_prices(self) -> None:
        """Fit seconds per second of window, and per token; neither is negative."""
        rows = np.vstack([_PRIORS, self._batches])
        amounts, elapsed_s = rows[:, :2], rows[:, 2]
        prices = np.linalg.lstsq(amounts, elapsed_s, rcond=None)[0]
        if prices.min() < 0:  # one amount alone explains the times better
            alone = amounts.T @ elapsed_s / (amounts**2).sum(axis=0)
            prices = np.where(prices < 0, 0.0, alone)
        self._window_price, self._token_price = prices.tolist()
