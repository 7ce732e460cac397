"""Hypotheses of windows -> segments and words on the recording's time axis.

A model's times count from the start of its window and may be wrong: they are moved into the window, and never
run backwards. What was heard before a forced cut waits for what is heard behind it, and both are joined
(`serve.transcript.joining`). Knows no engine and no samples.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import Window
from serve.engine import Hypothesis, TimedText
from serve.transcript.events import Segment, Word
from serve.transcript.joining import Heard, join


class Timeline:
    """Segments with recording times, numbered in order of their start."""

    def __init__(self, *, split: bool = False, words: bool = True) -> None:
        """Begin.

        Args:
            split: Whether segments name their channel, and windows of different channels overlap.
            words: Whether segments have the words that the hypotheses have; some have them to be joined by.
        """
        self._split = split
        self._has_words = words
        self._torn: dict[int, Heard] = {}  # by channel: goes on in the next window
        self._later: list[tuple[float, int, Segment]] = []  # a heap
        self._n_found = 0
        self.segments: list[Segment] = []
        """Those that were given out."""

    def place(self, window: Window, hypothesis: Hypothesis | None) -> Iterator[Segment]:
        """Yield the segments that are settled by what was heard in the next window, in order of its start.

        Args:
            window: The window.
            hypothesis: What was heard in it; None where nothing was said.
        """
        found = self._joined(window, hypothesis)
        self._torn.pop(window.channel, None)
        if window.is_torn and hypothesis is not None:
            self._torn[window.channel] = found.pop()
        for heard in found:
            self._push(heard)
        # A window of another channel may begin before this one ends, but not before this one begins.
        begins_s = [window.start / SAMPLE_RATE, *(heard.start_s for heard in self._torn.values())]
        yield from self._settled(min(begins_s) if self._split else math.inf)

    def rest(self) -> Iterator[Segment]:
        """Yield the segments behind the last window."""
        for heard in self._torn.values():
            self._push(heard)
        self._torn.clear()
        yield from self._settled(math.inf)

    def _joined(self, window: Window, hypothesis: Hypothesis | None) -> list[Heard]:
        """Return what waits in the window's channel and what was heard in the window, joined."""
        earlier = self._torn.get(window.channel)
        if hypothesis is None:
            return [] if earlier is None else [earlier]
        later = Heard.whole(window, hypothesis)
        if earlier is None:
            return [later]
        return list(join(earlier, later) if window.start < earlier.window.end else (earlier, later))

    def _push(self, heard: Heard) -> None:
        for segment in self._segments_of(heard):
            heapq.heappush(self._later, (segment.start_s, self._n_found, segment))
            self._n_found += 1

    def _settled(self, until_s: float) -> Iterator[Segment]:
        while self._later and self._later[0][0] <= until_s:
            self.segments.append(replace(heapq.heappop(self._later)[2], id=len(self.segments)))
            yield self.segments[-1]

    def _segments_of(self, heard: Heard) -> Iterator[Segment]:
        channel = heard.window.channel if self._split else None
        for segment in _segments_of(heard, channel):
            yield segment if self._has_words else replace(segment, words=(), scored_tokens=())


def _segments_of(heard: Heard, channel: int | None) -> Iterator[Segment]:
    """Yield one segment for each timed sentence of a window, or one for all of its speech."""
    hypothesis, offset_s = heard.hypothesis, heard.window.start / SAMPLE_RATE
    whole = TimedText(text=hypothesis.text, start_s=heard.start_s - offset_s, end_s=heard.end_s - offset_s)
    sentences = [sentence for sentence in hypothesis.sentences if sentence.text.strip()]
    if not sentences and hypothesis.text:
        sentences = [whole]
    words = deque(hypothesis.words)
    earliest_s = heard.start_s
    for sentence in sentences:
        # The model may place times in the silence behind the window, or before those it wrote already.
        first_s, last_s = _clamped(sentence, offset_s, earliest_s, heard.end_s)
        is_last = sentence is sentences[-1]
        own = list(words) if is_last else list(_take_words(words, sentence.text))
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
            words=_placed_words(own, offset_s, first_s, last_s, math.exp(hypothesis.avg_logprob)),
            scored_tokens=tuple(token for word in own for token in word.scored),
            channel=channel,
        )
        earliest_s = last_s


def _take_words(words: deque[TimedText], text: str) -> Iterator[TimedText]:
    """Remove the words of a sentence from the front, by counting letters, and return them."""
    n_letters = len("".join(text.split()))
    while words and n_letters > 0:
        n_letters -= len("".join(words[0].text.split()))
        yield words.popleft()


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
