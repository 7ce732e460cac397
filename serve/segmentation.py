"""Samples -> spans of speech -> windows for the encoder.

A span is speech, a window is what the encoder sees: one or more spans with the short pauses between them. Both are
half-open ranges of samples. Speech is found by Silero VAD (its ONNX model lies in the `silero-vad` wheel). Knows
no model of language and no request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
FRAME_SAMPLES = 512  # Silero's step at 16 kHz: 32 ms
CONTEXT_SAMPLES = 64  # what Silero sees of the step before
FRAMES_PER_RUN = 1_000  # 32 s: bounds the memory of one run of the model

SPEECH_PROB = 0.5  # a span begins above this
SILENCE_PROB = 0.35  # and may end below this
MIN_PAUSE_SAMPLES = SAMPLE_RATE * 160 // 1000  # shorter dips are closures of consonants, not pauses
MIN_SPEECH_SAMPLES = SAMPLE_RATE * 96 // 1000  # shorter bursts are clicks; a lone "हो" lasts about 200 ms
PAD_SAMPLES = SAMPLE_RATE * 200 // 1000  # keeps soft onsets and releases that the detector hears late

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
    """Find speech.

    Args:
        samples: (n_samples,) float32 mono at 16 kHz.

    Returns:
        Ascending spans that do not overlap, each padded by up to 0.2 s; neighbours share a pause that is shorter
        than both paddings. Empty where nobody speaks.
    """
    return pad_spans(_spans_above_threshold(speech_probs(samples)), len(samples))


def speech_probs(samples: Samples) -> npt.NDArray[np.float32]:
    """Return the probability of speech for every 32 ms of 16 kHz samples, (n_frames,)."""
    n_frames = -(-len(samples) // FRAME_SAMPLES)
    padded = np.zeros(CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES, dtype=np.float32)
    padded[CONTEXT_SAMPLES : CONTEXT_SAMPLES + len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + FRAME_SAMPLES)[
        ::FRAME_SAMPLES
    ]
    hidden = cell = np.zeros((1, 1, 128), dtype=np.float32)
    probs = []
    for first in range(0, n_frames, FRAMES_PER_RUN):
        batch = np.ascontiguousarray(frames[first : first + FRAMES_PER_RUN])
        batch_probs, hidden, cell = _detector().run(None, {"input": batch, "h": hidden, "c": cell})
        probs.append(batch_probs)
    return np.concatenate(probs) if probs else np.zeros(0, dtype=np.float32)


def pad_spans(spans: Sequence[Span], n_samples: int) -> list[Span]:
    """Widen each span by up to 0.2 s on either side; neighbours closer than that meet in the middle."""
    padded = []
    for index, span in enumerate(spans):
        previous_end = spans[index - 1].end if index else None
        next_start = spans[index + 1].start if index + 1 < len(spans) else None
        earliest = 0 if previous_end is None else (previous_end + span.start) // 2
        latest = n_samples if next_start is None else (span.end + next_start) // 2
        padded.append(Span(max(earliest, span.start - PAD_SAMPLES), min(latest, span.end + PAD_SAMPLES)))
    return padded


def pack_windows(
    spans: Sequence[Span],
    n_samples: int,
    *,
    max_window_s: float,
    max_first_window_s: float,
    max_gap_s: float,
    samples: Samples | None = None,
) -> list[Window]:
    """Pack spans into as few windows as fit, cut at pauses.

    A window that is full is cut at the longest pause of its second half. Only a span that is itself longer than
    `max_window_s` is cut inside: at its quietest point where `samples` are given, else at the limit.

    Args:
        spans: ascending, not overlapping.
        n_samples: length of the recording.
        max_window_s: longest window.
        max_first_window_s: longest first window, so that the first text comes early; a first span that is longer
            is kept whole, for a word cut in two is worse than a later one.
        max_gap_s: a longer pause always ends a window.
        samples: (n_samples,) float32 at 16 kHz, for finding quiet points.

    Returns:
        Ascending windows that do not overlap, and together hold every sample of every span.
    """
    max_samples = int(max_window_s * SAMPLE_RATE)
    limit = min(max_samples, int(max_first_window_s * SAMPLE_RATE))
    max_gap = int(max_gap_s * SAMPLE_RATE)
    pieces = [piece for span in spans for piece in _cut_span(span, max_samples, samples)]
    windows: list[Window] = []
    first = 0
    while first < len(pieces):
        stop = _last_fitting(pieces, first, limit, max_gap)
        windows.append(_window(pieces[first:stop]))
        first, limit = stop, max_samples
    assert not windows or windows[-1].end <= n_samples
    return windows


def _last_fitting(pieces: Sequence[Span], first: int, limit: int, max_gap: int) -> int:
    """Return the index after the last piece of the window that begins with piece `first`."""
    stop = first + 1
    while stop < len(pieces) and pieces[stop].start - pieces[stop - 1].end <= max_gap:
        if pieces[stop].end - pieces[first].start > limit:
            return _longest_pause(pieces, first, stop, limit)
        stop += 1
    return stop


def _longest_pause(pieces: Sequence[Span], first: int, stop: int, limit: int) -> int:
    """Return where to cut pieces[first:stop]: the longest pause in the window's second half, the latest of equals."""
    half = pieces[first].start + limit // 2
    candidates = [cut for cut in range(first + 1, stop + 1) if cut == stop or pieces[cut - 1].end >= half]
    return max(candidates, key=lambda cut: (pieces[cut].start - pieces[cut - 1].end, cut))


def _window(spans: Sequence[Span]) -> Window:
    return Window(spans[0].start, spans[-1].end, tuple(spans))


def _cut_span(span: Span, max_samples: int, samples: Samples | None) -> list[Span]:
    """Cut a span into pieces of at most `max_samples`, at quiet points in the second half of each piece."""
    pieces = []
    start = span.start
    while span.end - start > max_samples:
        cut = start + max_samples
        if samples is not None:
            earliest = start + max_samples // 2
            cut = earliest + _quietest_point(samples[earliest:cut])
        pieces.append(Span(start, cut))
        start = cut
    pieces.append(Span(start, span.end))
    return pieces


def _quietest_point(samples: Samples) -> int:
    """Return the middle of the quietest 60 ms, as an offset into samples."""
    n_frames = len(samples) // QUIET_FRAME_SAMPLES
    if n_frames < 3:
        return len(samples)
    frames = samples[: n_frames * QUIET_FRAME_SAMPLES].reshape(n_frames, QUIET_FRAME_SAMPLES)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    smoothed = np.convolve(power, np.ones(3), mode="valid")
    return (int(np.argmin(smoothed)) * 2 + 3) * QUIET_FRAME_SAMPLES // 2


def _spans_above_threshold(probs: npt.NDArray[np.float32]) -> list[Span]:
    """Turn probabilities into spans, with hysteresis, leaving out clicks and bridging dips."""
    spans: list[Span] = []
    start: int | None = None
    silent_since: int | None = None
    for frame, prob in enumerate(probs.tolist()):
        offset = frame * FRAME_SAMPLES
        if start is None:
            if prob >= SPEECH_PROB:
                start, silent_since = offset, None
        elif prob >= SILENCE_PROB:
            silent_since = None
        else:
            silent_since = offset if silent_since is None else silent_since
            if offset + FRAME_SAMPLES - silent_since >= MIN_PAUSE_SAMPLES:
                spans.append(Span(start, silent_since))
                start = None
    if start is not None:
        spans.append(Span(start, silent_since or len(probs) * FRAME_SAMPLES))
    return [span for span in spans if span.end - span.start >= MIN_SPEECH_SAMPLES]


@cache
def _detector() -> onnxruntime.InferenceSession:
    """Load Silero VAD's model that takes a whole sequence of steps at once (4 times faster than step by step)."""
    # Found, not imported: importing silero_vad sets torch to one thread for the whole process.
    package = find_spec("silero_vad")
    assert package is not None and package.origin is not None, "silero-vad is a dependency"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the engine owns the cores
    options.log_severity_level = 3  # errors only
    model = Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
