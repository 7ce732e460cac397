"""How long a batch will take: learned from those before it. Knows no engine.

A batch costs time for each second of window that is encoded, padding included, and for each token that is
written. Both prices are fitted to the latest batches by least squares. How many tokens a window will have is
guessed from the share of their bounds that earlier windows filled.
"""

from __future__ import annotations

FORGETTING = 0.95
"""Weight of a batch against the next one: about twenty batches count."""

PRIOR_S_PER_WINDOW_S = 0.03
PRIOR_S_PER_TOKEN = 0.01
PRIOR_FILL = 0.4
"""Whisper-base on two cores, and Marathi speech; the first batches correct them for any other."""

PRIOR_WEIGHT = 0.05
"""Of the priors against a batch of ten seconds of window and a hundred tokens."""


MAX_SURPRISE = 3.0
"""A batch counts as no more than this many times what it was expected to take: a machine that was busy with
something else says nothing about the price of windows."""


class BatchCost:
    """Prices a batch in seconds."""

    def __init__(self) -> None:
        self._fill = PRIOR_FILL
        # Normal equations of: elapsed = window price * window_s + token price * n_tokens.
        self._ww, self._wt, self._tt = 100.0 * PRIOR_WEIGHT, 0.0, 10_000.0 * PRIOR_WEIGHT
        self._we, self._te = self._ww * PRIOR_S_PER_WINDOW_S, self._tt * PRIOR_S_PER_TOKEN

    def expected_s(self, window_s: float, bound_tokens: float) -> float:
        """Return how long a batch will take.

        Args:
            window_s: Seconds of window, padding included, summed over the batch.
            bound_tokens: Most tokens that may be written, summed over the batch.
        """
        window_price, token_price = self._prices()
        return window_price * window_s + token_price * self._fill * bound_tokens

    def learn(self, window_s: float, bound_tokens: float, n_tokens: int, elapsed_s: float) -> None:
        """Take in a batch that was decoded, `n_tokens` of `bound_tokens` written."""
        window_price, token_price = self._prices()
        elapsed_s = min(elapsed_s, MAX_SURPRISE * (window_price * window_s + token_price * n_tokens) + 0.01)
        self._ww = FORGETTING * self._ww + window_s * window_s
        self._wt = FORGETTING * self._wt + window_s * n_tokens
        self._tt = FORGETTING * self._tt + n_tokens * n_tokens
        self._we = FORGETTING * self._we + window_s * elapsed_s
        self._te = FORGETTING * self._te + n_tokens * elapsed_s
        if bound_tokens:
            self._fill += (1 - FORGETTING) * (n_tokens / bound_tokens - self._fill)

    def _prices(self) -> tuple[float, float]:
        """Return seconds for a second of window, and for a token; neither is negative."""
        determinant = self._ww * self._tt - self._wt * self._wt
        if determinant > 1e-9 * self._ww * self._tt:
            window_price = (self._we * self._tt - self._te * self._wt) / determinant
            token_price = (self._te * self._ww - self._we * self._wt) / determinant
            if window_price >= 0 and token_price >= 0:
                return window_price, token_price
            if token_price < 0:
                return self._we / self._ww, 0.0
        return 0.0, self._te / self._tt
