"""Samples -> spans of speech, run by run, by Silero VAD (its ONNX model lies in the `silero-vad` wheel).

By hand around Silero's model, because its `get_speech_timestamps` needs the whole recording.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    import onnxruntime

FRAME_SAMPLES = 512
"""Step of Silero at 16 kHz: 32 ms."""

CONTEXT_SAMPLES = 64  # what Silero sees of the step before
FRAMES_PER_RUN = 1_000
"""Steps of one run of the model, 32 s: bounds its memory, and the wait for the first span."""

RUN_SAMPLES = FRAMES_PER_RUN * FRAME_SAMPLES
"""Samples of one run of the model."""


SPEECH_PROB = 0.5  # a span begins at this probability
SILENCE_PROB = 0.35  # and may end below this one
MIN_PAUSE_SAMPLES = SAMPLE_RATE * 160 // 1000  # shorter dips are closures of consonants, not pauses
MIN_SPEECH_SAMPLES = SAMPLE_RATE * 96 // 1000  # shorter bursts are clicks; a lone "हो" lasts about 200 ms
PAD_SAMPLES = SAMPLE_RATE * 200 // 1000
"""Samples that a span is widened by at either end: keeps soft onsets and releases, which are found late."""

USUAL_PEAK = 0.3  # the detector misses speech that is much quieter, so quiet recordings are raised to this
MAX_GAIN = 100.0  # 40 dB; more would raise the noise of silence itself


@dataclass(frozen=True)
class Span:
    """A stretch of speech: samples `start` up to, not including, `end`."""

    start: int
    """First sample."""
    end: int
    """Sample behind the last."""
    speech_prob: float = field(default=1.0, compare=False)
    """Mean probability of speech that the detector gave to it."""
    overlap: int = 0
    """Samples at its start that belong to the piece before it too, from which it was cut off."""
    is_torn: bool = False
    """Whether it was cut off where nobody pauses: the next piece goes on, and begins with an overlap."""


def find_speech(samples: Samples) -> list[Span]:
    """Find speech in (n_samples,) float32 mono at 16 kHz.

    Returns:
        Ascending spans that do not overlap, each widened by up to 0.2 s on either side; neighbours closer
        than that meet in the middle of their pause. None where nobody speaks.
    """
    detector = SpeechDetector()
    return [
        span for (run,), is_last in iter_runs([samples[None]]) for span in detector.push(run, is_last=is_last)
    ]


def iter_runs(blocks: Iterable[Samples], run_samples: int = RUN_SAMPLES) -> Iterator[tuple[Samples, bool]]:
    """Cut blocks anew, into (n_channels, run_samples) and a shorter last one; say which is the last."""
    pending: list[Samples] = []
    n_pending = 0
    for block in blocks:
        pending.append(block)
        n_pending += block.shape[1]
        if n_pending > run_samples:  # equal, it might be the last
            joined = np.concatenate(pending, axis=1) if len(pending) > 1 else block
            first = 0
            while joined.shape[1] - first > run_samples:
                yield joined[:, first : first + run_samples], False
                first += run_samples
            pending = [joined[:, first:]]
            n_pending = pending[0].shape[1]
    if n_pending:
        yield np.concatenate(pending, axis=1), True


class SpeechDetector:
    """Finds speech in a stream, run by run."""

    def __init__(self) -> None:
        self.n_heard = 0
        """Samples listened to so far."""
        self._peak = 0.0
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._hidden = self._cell = np.zeros((1, 1, 128), np.float32)
        self._held: Span | None = None  # found, but not widened before it is known what follows
        self._earliest = 0  # where the span to come may begin at the earliest, widened
        self._start: int | None = None  # of a stretch that is not over; it may be a click
        self._silent_from: int | None = None  # a dip in it that may become a pause
        self._sum_probs, self._n_probs = 0.0, 0  # of its frames that are speech
        self._ended = 0  # where the last stretch ended

    def push(self, samples: Samples, *, is_last: bool) -> list[Span]:
        """Listen to (n_samples,), whole frames until the last; return the spans now complete."""
        spans: list[Span] = []
        for prob in self._speech_probs(samples):
            self.n_heard += FRAME_SAMPLES
            self._listen(prob)
            spans += self._release()
        if is_last:
            n_samples = self.n_heard - -len(samples) % FRAME_SAMPLES
            self._end_stretch()
            spans += self._release(n_samples)
            self.n_heard = n_samples
        return spans

    @property
    def unfinished(self) -> Span | None:
        """The span that goes on, as far as it is certain: its start, widened, to the last speech heard."""
        if self._start is None or not self._is_certain():
            return None
        return self._span(self._widened(self._start), self._spoken_until)

    @property
    def n_silent(self) -> int:
        """Samples heard since somebody spoke."""
        return self.n_heard - (self._spoken_until if self._is_certain() else self._ended)

    @property
    def open_spans(self) -> list[Span]:
        """Speech that was not returned yet: the span that waits for what follows, and the unfinished."""
        spans = []
        if self._held is not None:
            end = min(self._held.end + PAD_SAMPLES, self.n_heard)
            if self._start is not None:
                end = min(end, (self._held.end + self._start) // 2)
            spans.append(Span(self._widened(self._held.start), end, self._held.speech_prob))
        if (unfinished := self.unfinished) is not None:
            start = max(unfinished.start, spans[0].end) if spans else unfinished.start
            spans.append(replace(unfinished, start=start))
        return spans

    @property
    def settled(self) -> int:
        """No span that is still to come begins before this sample."""
        if self._held is not None:
            return self._widened(self._held.start)
        return self._widened(self.n_heard if self._start is None else self._start)

    def _speech_probs(self, samples: Samples) -> list[float]:
        """Return the probability of speech in each 32 ms of (n_samples,), the last filled up with silence."""
        self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        gain = np.float32(min(MAX_GAIN, max(1.0, USUAL_PEAK / self._peak))) if self._peak else np.float32(1)
        n_frames = -(-len(samples) // FRAME_SAMPLES)
        padded = np.zeros(CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES, np.float32)
        padded[:CONTEXT_SAMPLES] = self._context
        padded[CONTEXT_SAMPLES : CONTEXT_SAMPLES + len(samples)] = samples
        self._context = padded[-CONTEXT_SAMPLES:].copy()
        frames = np.lib.stride_tricks.sliding_window_view(padded * gain, CONTEXT_SAMPLES + FRAME_SAMPLES)
        batch = np.ascontiguousarray(frames[::FRAME_SAMPLES])  # (n_frames, 576)
        probs, self._hidden, self._cell = _detector().run(
            None, {"input": batch, "h": self._hidden, "c": self._cell}
        )
        answer: list[float] = probs.ravel().tolist()
        return answer

    def _listen(self, prob: float) -> None:
        """Take in one frame: hysteresis bridges dips, and a stretch begins or ends."""
        if self._start is None:
            if prob < SPEECH_PROB:
                return
            self._start, self._silent_from = self.n_heard - FRAME_SAMPLES, None
            self._sum_probs, self._n_probs = 0.0, 0
        if prob < SILENCE_PROB:
            if self._silent_from is None:
                self._silent_from = self.n_heard - FRAME_SAMPLES
            if self.n_heard - self._silent_from >= MIN_PAUSE_SAMPLES:
                self._end_stretch()
            return
        self._silent_from = None
        self._sum_probs += prob
        self._n_probs += 1

    @property
    def _spoken_until(self) -> int:
        return self.n_heard if self._silent_from is None else self._silent_from

    def _is_certain(self) -> bool:
        """Tell whether the stretch that goes on is speech; as long as it is short it may be a click."""
        return self._start is not None and self._spoken_until - self._start >= MIN_SPEECH_SAMPLES

    def _end_stretch(self) -> None:
        if self._start is not None and self._is_certain():
            assert self._held is None, "it is released as soon as what follows is certain"
            self._held = self._span(self._start, self._spoken_until)
            self._ended = self._held.end
        self._start = None

    def _release(self, n_samples: int | None = None) -> list[Span]:
        """Widen the span that is held, once what follows cannot change it, or when all `n_samples` are heard.

        A span is widened by the padding, but no further than the middle of a pause or the recording's ends.
        """
        held = self._held
        if held is None:
            return []
        nothing_before = self.n_heard if self._start is None else self._start
        end = held.end + PAD_SAMPLES
        if self._start is not None and self._is_certain():
            middle = (held.end + self._start) // 2
            earliest, end = middle, min(end, middle)
        elif n_samples is not None:
            earliest, end = n_samples, min(end, n_samples)
        elif nothing_before >= held.end + 2 * PAD_SAMPLES:
            earliest = end
        else:
            return []
        widened = Span(self._widened(held.start), end, held.speech_prob)
        self._held, self._earliest = None, earliest
        return [widened]

    def _widened(self, start: int) -> int:
        return max(self._earliest, start - PAD_SAMPLES)

    def _span(self, start: int, end: int) -> Span:
        return Span(start, end, self._sum_probs / self._n_probs)


@cache
def _detector() -> onnxruntime.InferenceSession:
    """Load the variant of Silero VAD that takes many steps at once: four times faster than step by step."""
    # Otherwise it tells its maker of every process and session (since 1.29); read once, at its start.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    # Found, not imported: importing silero_vad sets torch to one thread for the whole process.
    package = find_spec("silero_vad")
    assert package is not None and package.origin is not None, "silero-vad is a dependency"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the cores belong to the engine
    options.log_severity_level = 3  # errors only
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
