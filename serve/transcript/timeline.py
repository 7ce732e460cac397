"""Hypotheses of windows -> segments and words on the recording's time axis.

A model's times count from the start of its window and may be wrong: they are moved into the window, and never
run backwards. Knows no engine and no samples.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import Window
from serve.engine import Hypothesis, ScoredToken, TimedText
from serve.transcript.events import Segment, Word


class Timeline:
    """Segments with recording times, numbered in order of their start."""

    def __init__(self, *, split: bool = False) -> None:
        """Begin.

        Args:
            split: Whether segments name their channel, and windows of different channels overlap.
        """
        self._split = split
        self._later: list[tuple[float, int, Segment]] = []  # a heap
        self._n_found = 0
        self.segments: list[Segment] = []
        """Those that were given out."""

    def place(self, window: Window, hypothesis: Hypothesis) -> Iterator[Segment]:
        """Yield the segments that are settled by what was heard in the next window, in order of its start."""
        for segment in _segments_of(window, hypothesis, channel=window.channel if self._split else None):
            heapq.heappush(self._later, (segment.start_s, self._n_found, segment))
            self._n_found += 1
        # A window of another channel may begin before this one ends, but not before this one begins.
        yield from self._settled(window.start / SAMPLE_RATE if self._split else math.inf)

    def rest(self) -> Iterator[Segment]:
        """Yield the segments behind the last window."""
        yield from self._settled(math.inf)

    def _settled(self, until_s: float) -> Iterator[Segment]:
        while self._later and self._later[0][0] <= until_s:
            self.segments.append(replace(heapq.heappop(self._later)[2], id=len(self.segments)))
            yield self.segments[-1]


def _segments_of(window: Window, hypothesis: Hypothesis, channel: int | None) -> Iterator[Segment]:
    """Yield one segment for each timed sentence of a window, or one for all of its speech."""
    start_s, end_s = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
    whole = TimedText(text=hypothesis.text, start_s=0.0, end_s=end_s - start_s)
    sentences = [sentence for sentence in hypothesis.sentences if sentence.text.strip()] or [whole]
    words, scored = deque(hypothesis.words), deque(hypothesis.scored_tokens)
    earliest_s = start_s
    for sentence in sentences:
        # The model may place times in the silence behind the window, or before those it wrote already.
        first_s, last_s = _clamped(sentence, start_s, earliest_s, end_s)
        is_last = sentence is sentences[-1]
        own = list(words) if is_last else list(_take_words(words, sentence.text))
        own_scored = list(scored) if sentence is whole else list(_take_scored(scored, sentence.tokens))
        yield Segment(
            id=0,
            start_s=first_s,
            end_s=last_s,
            text=sentence.text.strip(),
            avg_logprob=hypothesis.avg_logprob,
            no_speech_prob=hypothesis.no_speech_prob,
            language=hypothesis.language,
            language_prob=hypothesis.language_prob,
            tokens=sentence.tokens or hypothesis.tokens,
            temperature=hypothesis.temperature,
            compression_ratio=hypothesis.compression_ratio,
            words=_placed_words(own, start_s, first_s, last_s, math.exp(hypothesis.avg_logprob)),
            scored_tokens=tuple(own_scored),
            channel=channel,
        )
        earliest_s = last_s


def _take_words(words: deque[TimedText], text: str) -> Iterator[TimedText]:
    """Remove the words of a sentence from the front, by counting letters, and return them."""
    n_letters = len("".join(text.split()))
    while words and n_letters > 0:
        n_letters -= len("".join(words[0].text.split()))
        yield words.popleft()


def _take_scored(scored: deque[ScoredToken], tokens: Iterable[int]) -> Iterator[ScoredToken]:
    """Remove the tokens of a sentence, and those before it, which no sentence has; return the first."""
    for token in tokens:
        while scored:
            found = scored.popleft()
            if found.token == token:
                yield found
                break


def _placed_words(
    words: Iterable[TimedText], offset_s: float, start_s: float, end_s: float, usual_prob: float
) -> tuple[Word, ...]:
    """Place words on the time axis, each after the one before it and inside the segment."""
    placed = []
    for word in words:
        first_s, last_s = _clamped(word, offset_s, start_s, end_s)
        probability = usual_prob if word.probability is None else word.probability
        placed.append(Word(text=word.text.strip(), start_s=first_s, end_s=last_s, probability=probability))
        start_s = last_s
    return tuple(placed)


def _clamped(timed: TimedText, offset_s: float, earliest_s: float, latest_s: float) -> tuple[float, float]:
    """Return start and end in recording time, in order and inside the limits."""
    start_s = min(max(offset_s + timed.start_s, earliest_s), latest_s)
    return start_s, min(max(offset_s + timed.end_s, start_s), latest_s)
