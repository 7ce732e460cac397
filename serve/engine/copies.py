"""Whether a text repeats itself because the speaker does: copies of a word have their places in the sound.

A decoder that runs in circles writes what nobody says, and one that hears a word twelve times may count to
ten. Sound tells both: what is said again looks alike in the log-mel picture, one copy after another, and can
be counted. Only windows whose text repeats itself are looked at. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serve.audio.samples import FRAMES_PER_S
from serve.engine import Hypothesis, TimedText
from serve.engine.fallback import MAX_COMPRESSION_RATIO, compression_ratio
from serve.engine.repetition import MIN_ROUNDS, Run, bare, find_run
from serve.engine.vocabulary import Vocabulary
from serve.engine.words import heard_frames

if TYPE_CHECKING:
    from serve.audio.features import LogMel

STEP_FRAMES = 2
STEP_S = STEP_FRAMES / FRAMES_PER_S
"""Two copies never last the same to the frame, so time is looked at in steps of 20 ms."""

BANDS = 20
"""Mel bands are taken together in so many: two copies never have the same pitch."""

LOUDNESS_WEIGHT = 0.4
"""Against the shape of the spectrum. Loudness alone rises and falls alike in any list of words."""

ALIKE = 0.75
"""Least mean likeness of the copies; ten numbers read out evenly come to 0.74, a word that is resampled by up
to 15 % each time to 0.8, and a synthesised one to 0.98."""

ALIKE_AT_ALL = 0.5
"""Below, a stretch of sound is no copy."""

MIN_PERIODICITY = 0.2
"""Correlation of the sound with itself, one copy later; speech without repetition stays below."""

SHORTEST_COPY_S = 0.12
FASTEST_LETTERS_PER_S = 22.0
SLOWEST_LETTERS_PER_S = 5.0
"""How long a copy may take by its letters, where the number of copies that was written says nothing."""

MOST_MISCOUNTED = 2.5
"""A text of more or fewer copies than so many times those in the sound does not belong to it."""

LEAST_COVERED = 0.6
"""Share of the window that copies must fill where the text repeats itself only about."""


@dataclass(frozen=True)
class _Copies:
    """Stretches of sound that are alike and follow one another."""

    starts_s: tuple[float, ...]
    period_s: float

    @property
    def n(self) -> int:
        return len(self.starts_s)

    @property
    def ends_s(self) -> tuple[float, ...]:
        return *self.starts_s[1:], self.starts_s[-1] + self.period_s


def is_repetitive(text: str) -> bool:
    """Tell whether a text repeats itself so much that the sound must be asked."""
    return compression_ratio(text) > MAX_COMPRESSION_RATIO or find_run(text.split()) is not None


def weighed(
    hypothesis: Hypothesis,
    words: Sequence[TimedText],
    log_mel: LogMel,
    vocabulary: Vocabulary,
    *,
    max_tokens: int,
    is_timed: bool,
) -> Hypothesis:
    """Return a hypothesis with as many copies of what it repeats as the sound has.

    Args:
        hypothesis: The text, cut before a loop if there is one.
        words: All that was written, also behind that cut, with tokens and times.
        log_mel: The window.
        vocabulary: Turns tokens into text.
        max_tokens: Most tokens of the window.
        is_timed: Whether the times of words are the model's, and not guessed.

    Returns:
        The hypothesis as it is where the sound does not repeat itself; otherwise with the times of its words,
        for attention loses count among words that are all the same.
    """
    picture = _picture(log_mel[:, : heard_frames(log_mel)])
    run = find_run([word.text for word in words])
    if run is None:
        is_whole = not (hypothesis.looped or hypothesis.truncated)
        return replace(hypothesis, is_echo=True) if is_whole and _repeats(picture) else hypothesis
    copies = _copies_of(run, words, picture, is_timed=is_timed)
    if copies is None:
        return hypothesis
    rewritten = _rewritten(words, run, copies)
    tokens = [token for word in rewritten for token in word.tokens]
    if len(tokens) > max_tokens:
        return hypothesis
    is_same = tuple(tokens) == hypothesis.tokens
    return replace(
        hypothesis,
        tokens=tuple(tokens),
        text=vocabulary.text(tokens),
        looped=False,
        truncated=False,
        is_echo=True,
        sentences=hypothesis.sentences if is_same else (),
        words=tuple(rewritten),
    )


def sound_repeats(log_mel: LogMel) -> bool:
    """Tell whether a whole window is one stretch of sound again and again."""
    return _repeats(_picture(log_mel[:, : heard_frames(log_mel)]))


def _repeats(picture: npt.NDArray[np.float32]) -> bool:
    heard_s = picture.shape[1] * STEP_S
    copies = _find_copies(picture, SHORTEST_COPY_S, heard_s / MIN_ROUNDS)
    return copies is not None and copies.n * copies.period_s >= LEAST_COVERED * heard_s


def _copies_of(
    run: Run, words: Sequence[TimedText], picture: npt.NDArray[np.float32], *, is_timed: bool
) -> _Copies | None:
    """Look for the copies of a run where it lies in the sound; None where there are none."""
    copy = words[run.start : run.start + run.size]
    is_last = _is_begun_copy(words[run.end :], copy)
    begin_s = words[run.start].start_s if is_timed and run.start > 0 else 0.0
    end_s = words[run.end].start_s if is_timed and not is_last else picture.shape[1] * STEP_S
    written_s = (words[run.end - 1].end_s if not is_last else end_s) - words[run.start].start_s
    one_s = written_s / run.n_rounds
    n_letters = len(bare("".join(word.text for word in copy)))
    first_step = round(begin_s / STEP_S)
    copies = _find_copies(
        picture[:, first_step : round(end_s / STEP_S)],
        max(SHORTEST_COPY_S, 0.55 * one_s, n_letters / FASTEST_LETTERS_PER_S),
        max(1.8 * one_s, n_letters / SLOWEST_LETTERS_PER_S),
    )
    if copies is None or not 1 / MOST_MISCOUNTED <= copies.n / run.n_rounds <= MOST_MISCOUNTED:
        return None
    return replace(copies, starts_s=tuple(start_s + first_step * STEP_S for start_s in copies.starts_s))


def _rewritten(words: Sequence[TimedText], run: Run, copies: _Copies) -> list[TimedText]:
    """Return the words with as many copies as the sound has; the last one keeps its punctuation."""
    rounds = [list(words[first : first + run.size]) for first in range(run.start, run.end, run.size)]
    usual, last = rounds[-2], rounds[-1]
    kept = [*rounds[:-1], *[usual] * copies.n][: copies.n - 1]
    behind = words[run.end :]
    placed = [
        word
        for copy, start_s, end_s in zip((*kept, last), copies.starts_s, copies.ends_s, strict=True)
        for word in _placed(copy, start_s, end_s)
    ]
    return [*words[: run.start], *placed, *([] if _is_begun_copy(behind, last) else behind)]


def _placed(copy: Sequence[TimedText], start_s: float, end_s: float) -> list[TimedText]:
    """Spread the words of one copy over its time, by their letters."""
    borders = np.cumsum([0, *(len(word.text) for word in copy)])
    at_s = (start_s + (end_s - start_s) * borders / borders[-1]).tolist()
    return [
        replace(word, start_s=round(max(0.0, at_s[n]), 2), end_s=round(max(0.0, at_s[n + 1]), 2))
        for n, word in enumerate(copy)
    ]


def _is_begun_copy(behind: Sequence[TimedText], copy: Sequence[TimedText]) -> bool:
    """Tell whether what follows a run is nothing but the beginning of one more copy."""
    whole = bare("".join(word.text for word in copy))
    return whole.startswith(bare("".join(word.text for word in behind)))


def _picture(log_mel: LogMel) -> npt.NDArray[np.float32]:
    """Return (BANDS, n_steps): the shape of the spectrum in time, its mean taken off, and some loudness."""
    n_bands, n_steps = log_mel.shape[0] // BANDS, log_mel.shape[1] // STEP_FRAMES
    cut = log_mel[: n_bands * BANDS, : n_steps * STEP_FRAMES]
    coarse = cut.reshape(BANDS, n_bands, n_steps, STEP_FRAMES).mean(axis=(1, 3))
    if n_steps > 2:  # over 60 ms
        coarse[:, 1:-1] = (coarse[:, :-2] + coarse[:, 1:-1] + coarse[:, 2:]) / 3
    loudness = coarse.mean(axis=0, keepdims=True)
    shape = coarse - loudness
    shape -= shape.mean(axis=1, keepdims=True)
    picture: npt.NDArray[np.float32] = shape + LOUDNESS_WEIGHT * (loudness - loudness.mean())
    return picture


def _find_copies(picture: npt.NDArray[np.float32], shortest_s: float, longest_s: float) -> _Copies | None:
    """Find stretches that are alike and follow one another, of a length within the limits."""
    lags = range(
        max(1, math.floor(shortest_s / STEP_S) - 1),
        min(math.ceil(longest_s / STEP_S) + 1, picture.shape[1] // 2) + 1,
    )
    at_lags = [_correlation(picture[:, :-lag], picture[:, lag:]) for lag in lags]
    peaks = [
        (lags[n], at_lags[n])
        for n in range(1, len(lags) - 1)
        if at_lags[n] >= max(MIN_PERIODICITY, at_lags[n - 1], at_lags[n + 1])
    ]
    if not peaks:
        return None
    # Two copies later it looks alike as well: the first of about equal peaks is one copy.
    highest = max(height for _, height in peaks)
    period = next(lag for lag, height in peaks if height >= 0.85 * highest)
    places, likeness = _best_chain(picture, period)
    if len(places) < MIN_ROUNDS or likeness < ALIKE:
        return None
    return _Copies(tuple((place - period // 2) * STEP_S for place in places), period * STEP_S)


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    power = float(np.vdot(one, one)) * float(np.vdot(other, other))
    return float(np.vdot(one, other)) / math.sqrt(power) if power > 0 else 0.0


def _best_chain(picture: npt.NDArray[np.float32], period: int) -> tuple[list[int], float]:
    """Compare stretches of the middle with the whole; return the places of the best one's copies, in order.

    A stretch that begins in the middle of a copy finds half of one at either end, partly beyond the picture:
    it is not the best.
    """
    padded = np.pad(picture, ((0, 0), (period // 2, period // 2)))
    stretches = np.lib.stride_tricks.sliding_window_view(padded, period, axis=1)  # (BANDS, n_places, period)
    rows = np.ascontiguousarray(stretches.transpose(1, 0, 2)).reshape(stretches.shape[1], -1)
    lengths = np.linalg.norm(rows, axis=1)
    rows /= np.maximum(lengths, 0.3 * np.median(lengths) + 1e-6)[:, None]  # quiet stretches are like nothing
    begins = np.arange(len(rows)) - period // 2
    inside = (np.minimum(begins + period, picture.shape[1]) - np.maximum(begins, 0)) / period
    middle = len(rows) // 2
    best: tuple[float, list[int], float] = (-math.inf, [], 0.0)
    for place in range(max(0, middle - period), min(len(rows), middle + period), max(1, period // 8)):
        likeness = rows @ rows[place]
        peaks = _peaks(likeness, round(0.6 * period))
        if not peaks:  # so quiet that it is not even like itself
            continue
        chain = _chain(peaks, place, round(1.7 * period))
        worth = float(((likeness[chain] - ALIKE_AT_ALL) * inside[chain]).sum())
        if worth > best[0]:
            own = float(likeness[place])
            best = (worth, chain, float(likeness[chain].sum() - own) / max(1, len(chain) - 1))
    return best[1], best[2]


def _peaks(likeness: npt.NDArray[np.float32], apart: int) -> list[int]:
    """Return places that are like the stretch and not too near each other, in order."""
    taken: list[int] = []
    for place in np.argsort(-likeness, kind="stable").tolist():
        if likeness[place] < ALIKE_AT_ALL:
            break
        if all(abs(place - other) >= apart for other in taken):
            taken.append(place)
    return sorted(taken)


def _chain(places: list[int], around: int, longest_step: int) -> list[int]:
    """Return the places around one that follow each other without a gap."""
    nearest = min(range(len(places)), key=lambda n: abs(places[n] - around))
    first = last = nearest
    while first > 0 and places[first] - places[first - 1] <= longest_step:
        first -= 1
    while last + 1 < len(places) and places[last + 1] - places[last] <= longest_step:
        last += 1
    return places[first : last + 1]
