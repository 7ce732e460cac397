"""Predict how long a batch takes, from the batches before it. Knows no engine.

A batch costs time for each second of window encoded, padding included, and for each token emitted. Both
prices are fitted to the last batches by least squares. The number of tokens is predicted from the mean share
of the token limit that earlier windows used.
"""

from __future__ import annotations

from collections import deque

import numpy as np

LAST_BATCHES = 32
"""Batches that the prices are fitted to."""

FORGETTING = 0.95
"""Weight of the old mean when a batch updates the mean share of the token limit used."""

PRIOR_S_PER_WINDOW_S = 0.03
PRIOR_S_PER_TOKEN = 0.01
PRIOR_FILL = 0.4
"""Prices and share for whisper-base on two cores and Marathi speech; the first batches correct them."""

PRIOR_WEIGHT = 0.05
"""Weight of each prior price, relative to a batch of ten seconds of window and a hundred tokens."""

MAX_SURPRISE = 3.0
"""A batch counts at most this many times its predicted time, so that one slowed down by other programs does
not distort the prices."""

_PRIORS = np.sqrt(PRIOR_WEIGHT) * np.array(
    [(10.0, 0.0, 10.0 * PRIOR_S_PER_WINDOW_S), (0.0, 100.0, 100.0 * PRIOR_S_PER_TOKEN)]
)


class BatchCost:
    """Prices a batch in seconds."""

    def __init__(self) -> None:
        self._fill = PRIOR_FILL
        self._window_price, self._token_price = PRIOR_S_PER_WINDOW_S, PRIOR_S_PER_TOKEN
        self._batches: deque[tuple[float, float, float]] = deque(maxlen=LAST_BATCHES)
        """(window_s, n_tokens, elapsed_s) of each of the last batches."""

    def expected_s(self, window_s: float, bound_tokens: float) -> float:
        """Return the predicted time of a batch, in seconds.

        Args:
            window_s: Seconds of window, padding included, summed over the batch.
            bound_tokens: Token limits, summed over the batch.
        """
        return self._window_price * window_s + self._token_price * self._fill * bound_tokens

    def learn(self, window_s: float, bound_tokens: float, n_tokens: int, elapsed_s: float) -> None:
        """Update the prices with a decoded batch that emitted `n_tokens` of at most `bound_tokens`."""
        expected_s = self._window_price * window_s + self._token_price * n_tokens
        self._batches.append((window_s, n_tokens, min(elapsed_s, MAX_SURPRISE * expected_s + 0.01)))
        self._fit_prices()
        if bound_tokens:
            self._fill += (1 - FORGETTING) * (n_tokens / bound_tokens - self._fill)

    def _fit_prices(self) -> None:
        """Fit both prices, in seconds per second of window and per token; neither may be negative."""
        rows = np.vstack([_PRIORS, self._batches])
        amounts, elapsed_s = rows[:, :2], rows[:, 2]
        prices = np.linalg.lstsq(amounts, elapsed_s, rcond=None)[0]
        if prices.min() < 0:  # one amount alone explains the times better
            alone = amounts.T @ elapsed_s / (amounts**2).sum(axis=0)
            prices = np.where(prices < 0, 0.0, alone)
        self._window_price, self._token_price = prices.tolist()
