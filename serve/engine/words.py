"""Find when each word of a window is spoken, from a cross-attention alignment. Knows no model.

The alignment comes from dynamic time warping over the attention heads that follow the speech (openai/whisper,
timing.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve.audio.features import LogMel, silence_level
from serve.audio.samples import FRAMES_PER_S
from serve.engine import TimedText
from serve.engine.vocabulary import TIMESTAMP_STEP_S, Vocabulary

_SILENCE_TOLERANCE = 1e-3
"""Tolerance for the level of padding, which is rounded to fp16 and back."""


def heard_frames(log_mel: LogMel) -> int:
    """Return the number of frames before the window's padding, at least 1; no word lies behind them."""
    heard = np.flatnonzero((log_mel > silence_level(log_mel) + _SILENCE_TOLERANCE).any(axis=0))
    return int(heard[-1]) + 1 if len(heard) else log_mel.shape[1]


def word_times(
    tokens: Sequence[int],
    language: str,
    vocabulary: Vocabulary,
    *,
    path: Sequence[tuple[int, int]],
    token_probs: Sequence[float],
    n_frames: int,
) -> tuple[TimedText, ...]:
    """Return the words of a text with their times.

    Args:
        path: (token index, encoder position) pairs, ascending; index `len(tokens)` is the end token.
        token_probs: Probability of each token.
        n_frames: Frames before the window's padding.
    """
    end_s = n_frames / FRAMES_PER_S
    steps = np.array(path, dtype=np.int64).reshape(-1, 2)
    # First position of each token; the path visits every token, in order.
    first = np.searchsorted(steps[:, 0], np.arange(len(tokens) + 1))
    positions = np.append(steps[:, 1], steps[-1:, 1])[first]
    begins_s = np.minimum(positions * TIMESTAMP_STEP_S, end_s)

    found: list[TimedText] = []
    n_before = 0
    for word in vocabulary.words(tokens, language):
        n_after = n_before + len(word)
        if text := vocabulary.text(word):
            found.append(
                TimedText(
                    text=text,
                    start_s=round(float(begins_s[n_before]), 2),
                    end_s=round(float(begins_s[n_after]), 2),
                    probability=float(np.mean(token_probs[n_before:n_after])),
                    tokens=tuple(word),
                    scored=vocabulary.scored(word, token_probs[n_before:n_after]),
                )
            )
        n_before = n_after
    return tuple(found)


def guessed_times(
    tokens: Sequence[int], language: str, vocabulary: Vocabulary, *, n_frames: int
) -> tuple[TimedText, ...]:
    """Return the words of a text, their times guessed from the letters before them; see `word_times`."""
    words = [(vocabulary.text(word), tuple(word)) for word in vocabulary.words(tokens, language)]
    n_letters = sum(len(text) for text, _ in words)
    letter_s = n_frames / FRAMES_PER_S / max(1, n_letters)
    found: list[TimedText] = []
    n_before = 0
    for text, own in words:
        n_after = n_before + len(text)
        if text:
            found.append(
                TimedText(text=text, start_s=n_before * letter_s, end_s=n_after * letter_s, tokens=own)
            )
        n_before = n_after
    return tuple(found)
