"""A stream of samples -> where somebody speaks now, and the sound that is still needed.

Knows when each sample arrived, so that the lag of a text can be told. Knows no words.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import FRAME_SAMPLES, PAD_SAMPLES, Span, SpeechDetector, Tape, Window

QUIET_SAMPLES = SAMPLE_RATE * 20 // 1000  # resolution of the search for a quiet point
NEAR_SAMPLES = SAMPLE_RATE * 80 // 1000  # the times of words are right to about this


class Ear:
    """Listens to one stream, and forgets what nobody needs."""

    def __init__(self) -> None:
        self._detector = SpeechDetector()
        self._tape = Tape()
        self._spans: list[Span] = []
        self._pending = np.zeros(0, np.float32)  # less than a frame of the detector
        self._arrived: deque[tuple[int, float]] = deque()  # (samples heard until then, time)

    @property
    def n_heard(self) -> int:
        """Samples listened to."""
        return self._detector.n_heard

    @property
    def silence_s(self) -> float:
        """Seconds since somebody spoke."""
        return self._detector.n_silent / SAMPLE_RATE

    def listen(self, samples: Samples, arrived: float, *, is_last: bool = False) -> None:
        """Listen to the next samples, (n_samples,), which arrived at a time of the monotonic clock."""
        samples = np.concatenate([self._pending, samples])
        n_whole = len(samples) if is_last else len(samples) - len(samples) % FRAME_SAMPLES
        samples, self._pending = samples[:n_whole], samples[n_whole:]
        if not n_whole:
            return
        self._tape.append(samples)
        self._spans += self._detector.push(samples, is_last=is_last)
        self._arrived.append((self.n_heard, arrived))

    def window(self, front: int) -> Window | None:
        """Return the speech from a sample on, as far as it was heard; None where nobody spoke."""
        found = [
            Span(max(span.start, front), span.end, span.speech_prob)
            for span in [*self._spans, *self._detector.open_spans]
            if span.end > front
        ]
        return Window(found[0].start, found[-1].end, tuple(found)) if found else None

    def samples(self, start: int, end: int) -> Samples:
        """Return a copy of the sound between two samples of the stream."""
        return self._tape.between(start, end)

    def quiet_point(self, near: int) -> tuple[float, int]:
        """Return the power and the place of the quietest 20 ms near a sample."""
        start = max(0, near - NEAR_SAMPLES)
        around = self._tape.between(start, min(near + NEAR_SAMPLES, self.n_heard))
        n_frames = len(around) // QUIET_SAMPLES
        if not n_frames:
            return 0.0, near
        frames = around[: n_frames * QUIET_SAMPLES].reshape(n_frames, QUIET_SAMPLES)
        power = np.mean(np.square(frames), axis=1)
        quietest = int(np.argmin(power))
        return float(power[quietest]), start + quietest * QUIET_SAMPLES + QUIET_SAMPLES // 2

    def lag_s(self, end_s: float, now: float) -> float:
        """Return how long ago the sound that ends at `end_s` arrived."""
        n_samples = end_s * SAMPLE_RATE
        for n_heard, arrived in self._arrived:
            if n_heard >= n_samples:
                return now - arrived
        return 0.0

    def forget(self, before: int) -> None:
        """Forget what lies before a sample; nothing is asked about it again."""
        self._tape.forget(before)
        self._spans = [span for span in self._spans if span.end > before]
        while self._arrived and self._arrived[0][0] < before:
            self._arrived.popleft()

    def forget_silence(self) -> None:
        """Forget what nobody spoke in, but for what speech to come may begin with."""
        self.forget(max(0, min(self._detector.settled, self.n_heard) - PAD_SAMPLES))
