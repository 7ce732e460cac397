"""A recording -> windows and their samples, going through it once.

A window is handed out as soon as nothing that follows can change it, and what lies before the windows to come
is forgotten: memory does not grow with the recording, and the first window of an hour is ready before the
hour has been listened to. Channels are listened to side by side.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation.speech import Span, SpeechDetector, iter_runs
from serve.audio.segmentation.windows import Window, WindowLimits, WindowPacker

MIN_OVERLAP_SAMPLES = SAMPLE_RATE * 3 // 2
MAX_OVERLAP_SAMPLES = SAMPLE_RATE * 2
"""Speech before a forced cut that the next window has as well: three or four words, to join the texts by."""

QUIET_FRAME_SAMPLES = SAMPLE_RATE * 20 // 1000  # resolution of the search for a quiet point


def iter_windows(
    blocks: Iterable[Samples],
    limits: WindowLimits,
) -> Iterator[tuple[Window, Samples]]:
    """Find the speech in a recording and pack it into windows.

    Args:
        blocks: float32 at 16 kHz, each (n_channels, n_samples); of any length.
        limits: How long windows may be.

    Yields:
        Windows in order of their start, and the samples (n_samples,) of each. Those of a channel together
        hold every sample of its speech, and overlap only where speech is cut without a pause.
    """
    listeners: list[Listener] = []
    found: list[tuple[int, int, Window, Samples]] = []  # a heap; start and channel never tie
    for run, is_last in iter_runs(blocks):
        listeners = listeners or [Listener(channel, limits) for channel in range(len(run))]
        for listener, samples in zip(listeners, run, strict=True):
            for window, heard in listener.push(samples, is_last=is_last):
                heapq.heappush(found, (window.start, window.channel, window, heard))
        settled = min(listener.settled for listener in listeners)
        while found and found[0][0] <= settled:
            yield heapq.heappop(found)[2:]


class Listener:
    """What is done with one channel: speech is found, cut, packed, and what was heard is forgotten."""

    def __init__(self, channel: int, limits: WindowLimits) -> None:
        self._channel = channel
        self._detector = SpeechDetector()
        self._packer = WindowPacker(limits)
        self._max_samples = self._packer.max_samples
        # However short windows may be, each piece goes on beyond the one before it.
        self._max_overlap = min(MAX_OVERLAP_SAMPLES, self._max_samples // 4)
        self._min_overlap = min(MIN_OVERLAP_SAMPLES, self._max_overlap)
        self._tape = Tape()
        self._next = 0  # speech before this sample needs no window any more
        self._n_taken = 0  # all speech before this sample was given to the packer
        self._is_over = False

    def push(self, samples: Samples, *, is_last: bool) -> list[tuple[Window, Samples]]:
        """Listen to the next run of (n_samples,); return the windows now complete, and their samples."""
        self._tape.append(samples)
        windows: list[Window] = []
        for span in self._detector.push(samples, is_last=is_last):
            for piece in self._cut(span, is_whole=True):
                windows += self._packer.push(piece)
        if (unfinished := self._detector.unfinished) is not None and not is_last:
            for piece in self._cut(unfinished, is_whole=False):
                windows += self._packer.push(piece)
        self._is_over = is_last
        windows += self._packer.flush() if is_last else self._packer.pause(self._next_speech)
        placed = [Window(window.start, window.end, window.spans, self._channel) for window in windows]
        heard = [(window, self._tape.between(window.start, window.end)) for window in placed]
        if not is_last:
            self._tape.forget(int(self.settled))
        return heard

    @property
    def settled(self) -> float:
        """No window that is still to come begins before this sample."""
        if self._is_over:
            return math.inf
        first = self._packer.first_sample
        return self._next_speech if first is None else first

    @property
    def _next_speech(self) -> int:
        return max(self._detector.settled, self._next)

    def _cut(self, span: Span, *, is_whole: bool) -> Iterator[Span]:
        """Cut what is longer than a window at quiet points in the second half of each piece.

        Each piece behind a cut begins at a quiet point before it, so that the word that may be cut is whole
        in one of both. The rest of a span that is not whole is left for later.
        """
        rest = self._rest(span)
        while rest.end - rest.start > self._max_samples:
            earliest = rest.start + max(1, self._max_samples // 2)
            cut = self._quiet_point(earliest, rest.start + self._max_samples)
            yield replace(rest, end=cut, is_torn=True)
            self._n_taken = cut
            self._next = self._quiet_point(cut - self._max_overlap, cut - self._min_overlap)
            rest = self._rest(span)
        if is_whole:
            yield rest
            self._n_taken = self._next = span.end

    def _rest(self, span: Span) -> Span:
        """Return what is left of a span of which pieces may have been cut off."""
        if span.start >= self._next:
            return span
        return replace(span, start=self._next, overlap=self._n_taken - self._next)

    def _quiet_point(self, earliest: int, latest: int) -> int:
        return earliest + _quietest_point(self._tape.between(earliest, latest))


class Tape:
    """The samples that are still needed, by their place in the recording."""

    def __init__(self) -> None:
        self._start = 0
        self._samples = np.zeros(0, np.float32)

    def append(self, samples: Samples) -> None:
        self._samples = np.concatenate([self._samples, samples])

    def between(self, start: int, end: int) -> Samples:
        """Return a copy, so that a window does not hold all that was heard around it."""
        assert self._start <= start <= end <= self._start + len(self._samples), "it is not forgotten"
        return self._samples[start - self._start : end - self._start].copy()

    def forget(self, before: int) -> None:
        self._samples = self._samples[max(0, before - self._start) :].copy()
        self._start = max(self._start, before)


def _quietest_point(samples: Samples) -> int:
    """Return the middle of the quietest 60 ms, as an offset into samples."""
    n_frames = len(samples) // QUIET_FRAME_SAMPLES
    if n_frames < 3:
        return len(samples)
    frames = samples[: n_frames * QUIET_FRAME_SAMPLES].reshape(n_frames, QUIET_FRAME_SAMPLES)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    over_three = np.convolve(power, np.ones(3), mode="valid")
    return (2 * int(np.argmin(over_three)) + 3) * QUIET_FRAME_SAMPLES // 2
