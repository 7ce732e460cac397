"""Samples -> spans of speech -> windows for the encoder.

A span is speech; a window is what the encoder sees: one or more spans with the short pauses between them.
Both are half-open ranges of samples. Speech is found by Silero VAD (its ONNX model lies in the `silero-vad`
wheel). Both steps can be lazy, so that the first window of an hour is ready before the hour has been listened
to. Knows no language model and no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from serve.features import SAMPLE_RATE, Samples

FRAME_SAMPLES = 512  # Silero's step at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # what Silero sees of the step before
FRAMES_PER_RUN = 1_000  # 32 s: bounds the memory of one run of the model, and the wait for the first span

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


@dataclass(frozen=True)
class Window:
    """What the encoder sees at once: samples `start` up to, not including, `end`, and the speech in it."""

    start: int
    end: int
    spans: tuple[Span, ...]


def find_speech(samples: Samples) -> list[Span]:
    """Find speech; `iter_speech` at once."""
    return list(iter_speech(samples))


def iter_speech(samples: Samples) -> Iterator[Span]:
    """Find speech, span by span, reading the recording as it goes.

    Args:
        samples: (n_samples,) float32 mono at 16 kHz.

    Yields:
        Ascending spans that do not overlap, each widened by up to 0.2 s on either side; neighbours closer
        than that meet in the middle of their pause. None where nobody speaks.
    """
    return _widen(_join_frames(speech_probs(samples)), len(samples))


def speech_probs(samples: Samples) -> Iterator[float]:
    """Yield the probability of speech in each 32 ms of (n_samples,) float32 at 16 kHz."""
    peak = max(float(samples.max()), -float(samples.min())) if samples.size else 0.0
    gain = np.float32(min(MAX_GAIN, max(1.0, USUAL_PEAK / peak))) if peak else np.float32(1)
    hidden = cell = np.zeros((1, 1, 128), dtype=np.float32)
    for start in range(0, len(samples), FRAMES_PER_RUN * FRAME_SAMPLES):
        n_frames = min(FRAMES_PER_RUN, -(-(len(samples) - start) // FRAME_SAMPLES))
        heard = samples[max(0, start - CONTEXT_SAMPLES) : start + n_frames * FRAME_SAMPLES]
        padded = np.zeros(CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES, dtype=np.float32)
        first = 0 if start else CONTEXT_SAMPLES  # nothing was heard before the start
        padded[first : first + len(heard)] = heard * gain
        frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + FRAME_SAMPLES)
        batch = np.ascontiguousarray(frames[::FRAME_SAMPLES])  # (n_frames, 576)
        probs, hidden, cell = _detector().run(None, {"input": batch, "h": hidden, "c": cell})
        yield from probs.tolist()


def pack_windows(
    spans: Iterable[Span],
    n_samples: int,
    *,
    max_window_s: float,
    max_first_window_s: float,
    max_gap_s: float,
    samples: Samples | None = None,
) -> list[Window]:
    """Pack spans into windows; `iter_windows` at once, for a recording of `n_samples`."""
    windows = list(
        iter_windows(
            spans,
            max_window_s=max_window_s,
            max_first_window_s=max_first_window_s,
            max_gap_s=max_gap_s,
            samples=samples,
        )
    )
    assert not windows or windows[-1].end <= n_samples, "spans lie inside the recording"
    return windows


def iter_windows(
    spans: Iterable[Span],
    *,
    max_window_s: float,
    max_first_window_s: float,
    max_gap_s: float,
    samples: Samples | None = None,
) -> Iterator[Window]:
    """Pack spans into windows, cut at pauses.

    A full window is cut at the longest pause of its second half. Only a span that is itself longer than
    `max_window_s` is cut inside: at its quietest point where `samples` are given, else at the limit.

    Args:
        spans: ascending, not overlapping.
        max_window_s: longest window.
        max_first_window_s: longest first window, so that the first text comes early. A first span that is
            longer stays whole all the same, for a word cut in two is worse than a later one.
        max_gap_s: a longer pause always ends a window.
        samples: (n_samples,) float32 at 16 kHz, for finding quiet points.

    Yields:
        Ascending windows that do not overlap, and together hold every sample of every span.
    """
    max_samples = max(1, int(max_window_s * SAMPLE_RATE))
    max_gap_samples = int(max_gap_s * SAMPLE_RATE)
    limit = min(max_samples, int(max_first_window_s * SAMPLE_RATE))
    gathered: list[Span] = []
    for piece in (piece for span in spans for piece in _cut_span(span, max_samples, samples)):
        while gathered:
            ends_here = piece.start - gathered[-1].end > max_gap_samples
            if not ends_here and piece.end - gathered[0].start <= limit:
                break
            n_pieces = len(gathered) if ends_here else _longest_pause([*gathered, piece], limit)
            yield _window(gathered[:n_pieces])
            del gathered[:n_pieces]
            limit = max_samples
        gathered.append(piece)
    if gathered:
        yield _window(gathered)


def _longest_pause(pieces: Sequence[Span], limit: int) -> int:
    """Return how many pieces come before the longest pause of the second half; of equals, the latest."""
    half = pieces[0].start + limit // 2
    cuts = [cut for cut in range(1, len(pieces)) if cut == len(pieces) - 1 or pieces[cut - 1].end >= half]
    return max(cuts, key=lambda cut: (pieces[cut].start - pieces[cut - 1].end, cut))


def _window(spans: Sequence[Span]) -> Window:
    return Window(spans[0].start, spans[-1].end, tuple(spans))


def _cut_span(span: Span, max_samples: int, samples: Samples | None) -> Iterator[Span]:
    """Cut a span into pieces of at most `max_samples`, at quiet points in the second half of each."""
    start = span.start
    while span.end - start > max_samples:
        cut = start + max_samples
        if samples is not None:
            earliest = start + max(1, max_samples // 2)
            cut = earliest + _quietest_point(samples[earliest:cut])
        yield Span(start, cut)
        start = cut
    yield Span(start, span.end)


def _quietest_point(samples: Samples) -> int:
    """Return the middle of the quietest 60 ms, as an offset into samples."""
    n_frames = len(samples) // QUIET_FRAME_SAMPLES
    if n_frames < 3:
        return len(samples)
    frames = samples[: n_frames * QUIET_FRAME_SAMPLES].reshape(n_frames, QUIET_FRAME_SAMPLES)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    over_three = np.convolve(power, np.ones(3), mode="valid")
    return (2 * int(np.argmin(over_three)) + 3) * QUIET_FRAME_SAMPLES // 2


def _join_frames(probs: Iterable[float]) -> Iterator[Span]:
    """Turn probabilities into spans of whole frames, with hysteresis; dips are bridged, clicks left out."""
    start: int | None = None
    silent_from: int | None = None
    end = 0
    for prob in probs:
        offset, end = end, end + FRAME_SAMPLES
        if start is None:
            if prob >= SPEECH_PROB:
                start, silent_from = offset, None
        elif prob >= SILENCE_PROB:
            silent_from = None
        else:
            silent_from = offset if silent_from is None else silent_from
            if end - silent_from >= MIN_PAUSE_SAMPLES:
                if silent_from - start >= MIN_SPEECH_SAMPLES:
                    yield Span(start, silent_from)
                start = None
    if start is not None:
        last = end if silent_from is None else silent_from
        if last - start >= MIN_SPEECH_SAMPLES:
            yield Span(start, last)


def _widen(spans: Iterable[Span], n_samples: int) -> Iterator[Span]:
    """Widen each span by the padding, but no further than the middle of a pause or the recording's ends."""
    earliest = 0
    held: Span | None = None
    for span in spans:
        if held is not None:
            middle = (held.end + span.start) // 2
            yield _padded(held, earliest, middle)
            earliest = middle
        held = span
    if held is not None:
        yield _padded(held, earliest, n_samples)


def _padded(span: Span, earliest: int, latest: int) -> Span:
    return Span(max(earliest, span.start - PAD_SAMPLES), min(latest, span.end + PAD_SAMPLES))


@cache
def _detector() -> onnxruntime.InferenceSession:
    """Load the variant of Silero VAD that takes many steps at once: four times faster than step by step."""
    # Found, not imported: importing silero_vad sets torch to one thread for the whole process.
    package = find_spec("silero_vad")
    assert package is not None and package.origin is not None, "silero-vad is a dependency"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the cores belong to the engine
    options.log_severity_level = 3  # errors only
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
