"""A recording -> spans of speech -> windows for the encoder, going through it once.

A span is speech; a window is what the encoder sees: one or more spans with the short pauses between them.
Both are half-open ranges of samples. Speech is found by Silero VAD (its ONNX model lies in the `silero-vad`
wheel). A window is handed out as soon as nothing that follows can change it, and what lies before the windows
to come is forgotten: memory does not grow with the recording, and the first window of an hour is ready before
the hour has been listened to. Channels are listened to side by side. By hand around
Silero's model, because its `get_speech_timestamps` needs the whole recording. Knows no language model and no
request.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples

if TYPE_CHECKING:
    import onnxruntime

FRAME_SAMPLES = 512  # Silero's step at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # what Silero sees of the step before
FRAMES_PER_RUN = 1_000  # 32 s: bounds the memory of one run of the model, and the wait for the first span
RUN_SAMPLES = FRAMES_PER_RUN * FRAME_SAMPLES

SPEECH_PROB = 0.5  # a span begins at this probability
SILENCE_PROB = 0.35  # and may end below this one
MIN_PAUSE_SAMPLES = SAMPLE_RATE * 160 // 1000  # shorter dips are closures of consonants, not pauses
MIN_SPEECH_SAMPLES = SAMPLE_RATE * 96 // 1000  # shorter bursts are clicks; a lone "हो" lasts about 200 ms
PAD_SAMPLES = SAMPLE_RATE * 200 // 1000  # keeps soft onsets and releases, which the detector hears late

USUAL_PEAK = 0.3  # the detector misses speech that is much quieter, so quiet recordings are raised to this
MAX_GAIN = 100.0  # 40 dB; more would raise the noise of silence itself

QUIET_FRAME_SAMPLES = SAMPLE_RATE * 20 // 1000  # resolution of the search for a quiet point


@dataclass(frozen=True)
class Span:
    """A stretch of speech: samples `start` up to, not including, `end`."""

    start: int
    end: int
    speech_prob: float = field(default=1.0, compare=False)
    """Mean probability of speech that the detector gave to it."""


@dataclass(frozen=True)
class Window:
    """What the encoder sees at once: samples `start` up to, not including, `end`, and the speech in it."""

    start: int
    end: int
    spans: tuple[Span, ...]
    channel: int = 0

    @property
    def speech_samples(self) -> int:
        """Samples of speech, the pauses left out."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def speech_prob(self) -> float:
        """Mean probability of speech in the spans."""
        weighted = sum((span.end - span.start) * span.speech_prob for span in self.spans)
        return weighted / self.speech_samples


@dataclass(frozen=True, kw_only=True)
class WindowLimits:
    """How long windows may be."""

    max_window_s: float
    """Longest window: a span that is longer is cut."""
    max_packed_s: float
    """Longest window of several spans. A span that is longer stays whole all the same, for a word cut in two
    is worse than a slower window."""
    max_first_window_s: float
    """The same for the first window of a channel, so that the first text comes early."""
    max_gap_s: float
    """A longer pause always ends a window."""


def iter_windows(
    blocks: Iterable[Samples],
    limits: WindowLimits,
    *,
    run_samples: int = RUN_SAMPLES,
    on_run: Callable[[Sequence[Listener]], None] | None = None,
) -> Iterator[tuple[Window, Samples]]:
    """Find the speech in a recording and pack it into windows.

    Args:
        blocks: float32 at 16 kHz, each (n_channels, n_samples); of any length.
        limits: How long windows may be.
        run_samples: Heard at a time, a multiple of `FRAME_SAMPLES`; fewer give windows earlier and cost more.
        on_run: Told after each run, once its windows are handed out; for live speech.

    Yields:
        Windows in order of their start, and the samples (n_samples,) of each. Those of a channel do not
        overlap, and together hold every sample of its speech.
    """
    listeners: list[Listener] = []
    found: list[tuple[int, int, Window, Samples]] = []  # a heap; start and channel never tie
    for run, is_last in _runs(blocks, run_samples):
        listeners = listeners or [Listener(channel, limits) for channel in range(len(run))]
        for listener, samples in zip(listeners, run, strict=True):
            for window, heard in listener.push(samples, is_last=is_last):
                heapq.heappush(found, (window.start, window.channel, window, heard))
        settled = min(listener.settled for listener in listeners)
        while found and found[0][0] <= settled:
            yield heapq.heappop(found)[2:]
        if on_run is not None:
            on_run(listeners)


def find_speech(samples: Samples) -> list[Span]:
    """Find speech in (n_samples,) float32 mono at 16 kHz.

    Returns:
        Ascending spans that do not overlap, each widened by up to 0.2 s on either side; neighbours closer
        than that meet in the middle of their pause. None where nobody speaks.
    """
    detector = SpeechDetector()
    return [
        span for (run,), is_last in _runs([samples[None]]) for span in detector.push(run, is_last=is_last)
    ]


def _runs(blocks: Iterable[Samples], run_samples: int = RUN_SAMPLES) -> Iterator[tuple[Samples, bool]]:
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


class Listener:
    """What is done with one channel: speech is found, cut, packed, and what was heard is forgotten."""

    def __init__(self, channel: int, limits: WindowLimits) -> None:
        self._channel = channel
        self._detector = SpeechDetector()
        self._packer = WindowPacker(limits)
        self._max_samples = self._packer.max_samples
        self._tape = _Tape()
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
        return max(self._detector.settled, self._n_taken)

    @property
    def n_heard(self) -> int:
        """Samples listened to so far."""
        return self._detector.n_heard

    def open_window(self) -> tuple[Window, Samples] | None:
        """Return the window that is being gathered, with the speech that goes on; None while nobody speaks.

        It may yet be cut elsewhere. What would not fit into a window is left out.
        """
        heard = [replace(span, start=max(span.start, self._n_taken)) for span in self._detector.open_spans]
        spans = [*self._packer.gathered, *(span for span in heard if span.start < span.end)]
        if not spans:
            return None
        latest = spans[0].start + self._max_samples
        kept = tuple(replace(span, end=min(span.end, latest)) for span in spans if span.start < latest)
        window = Window(kept[0].start, kept[-1].end, kept, self._channel)
        return window, self._tape.between(window.start, window.end)

    def _cut(self, span: Span, *, is_whole: bool) -> Iterator[Span]:
        """Cut what is longer than a window at quiet points in the second half of each piece.

        The rest of a span that is not whole is left for later.
        """
        start = max(span.start, self._n_taken)
        while span.end - start > self._max_samples:
            earliest = start + max(1, self._max_samples // 2)
            latest = start + self._max_samples
            cut = earliest + _quietest_point(self._tape.between(earliest, latest))
            yield Span(start, cut, span.speech_prob)
            start = cut
        if is_whole:
            yield Span(start, span.end, span.speech_prob)
            start = span.end
        self._n_taken = start


class WindowPacker:
    """Packs the spans of a channel into windows, cut at pauses.

    A full window is cut at the longest pause of its second half.
    """

    def __init__(self, limits: WindowLimits) -> None:
        self.max_samples = max(1, int(limits.max_window_s * SAMPLE_RATE))
        self._max_packed_samples = min(self.max_samples, int(limits.max_packed_s * SAMPLE_RATE))
        self._max_gap_samples = int(limits.max_gap_s * SAMPLE_RATE)
        self._limit = min(self._max_packed_samples, int(limits.max_first_window_s * SAMPLE_RATE))
        self.gathered: list[Span] = []
        """Spans of the window to come."""

    @property
    def first_sample(self) -> int | None:
        """Where the window that is being gathered begins; None where there is none."""
        return self.gathered[0].start if self.gathered else None

    def push(self, span: Span) -> Iterator[Window]:
        """Take the next span, of at most `max_samples`; yield the windows that are complete by that."""
        yield from self.pause(span.start)
        while self.gathered and span.end - self.gathered[0].start > self._limit:
            yield self._window(_longest_pause([*self.gathered, span], self._limit))
        self.gathered.append(span)

    def pause(self, until: int) -> Iterator[Window]:
        """Learn that no span to come begins before the sample `until`."""
        if self.gathered and until - self.gathered[-1].end > self._max_gap_samples:
            yield from self.flush()

    def flush(self) -> Iterator[Window]:
        """Yield what was gathered as the last window."""
        if self.gathered:
            yield self._window(len(self.gathered))

    def _window(self, n_spans: int) -> Window:
        spans = tuple(self.gathered[:n_spans])
        del self.gathered[:n_spans]
        self._limit = self._max_packed_samples
        return Window(spans[0].start, spans[-1].end, spans)


class _Tape:
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


def _longest_pause(pieces: Sequence[Span], limit: int) -> int:
    """Return how many pieces come before the longest pause of the second half; of equals, the latest."""
    half = pieces[0].start + limit // 2
    cuts = [cut for cut in range(1, len(pieces)) if cut == len(pieces) - 1 or pieces[cut - 1].end >= half]
    return max(cuts, key=lambda cut: (pieces[cut].start - pieces[cut - 1].end, cut))


def _quietest_point(samples: Samples) -> int:
    """Return the middle of the quietest 60 ms, as an offset into samples."""
    n_frames = len(samples) // QUIET_FRAME_SAMPLES
    if n_frames < 3:
        return len(samples)
    frames = samples[: n_frames * QUIET_FRAME_SAMPLES].reshape(n_frames, QUIET_FRAME_SAMPLES)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    over_three = np.convolve(power, np.ones(3), mode="valid")
    return (2 * int(np.argmin(over_three)) + 3) * QUIET_FRAME_SAMPLES // 2


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
