"""Spans of speech -> windows for the encoder, cut at pauses. Knows no samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation.speech import Span


@dataclass(frozen=True)
class Window:
    """What the encoder sees at once: samples `start` up to, not including, `end`, and the speech in it.

    Windows of a channel do not overlap, but for those that part speech where nobody pauses: there a word may
    be cut, so the later window begins a little before the earlier one ends.
    """

    start: int
    """First sample."""
    end: int
    """Sample behind the last."""
    spans: tuple[Span, ...]
    channel: int = 0
    """Number of the recording's channel, from 0."""

    @property
    def overlap(self) -> int:
        """Samples at its start that the window before it ends with."""
        return self.spans[0].overlap

    @property
    def is_torn(self) -> bool:
        """Whether speech goes on behind it without a pause; the next window begins with an overlap."""
        return self.spans[-1].is_torn

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
    """Longest window, an overlap included: a span that is longer is cut."""
    max_packed_s: float
    """Longest window of several spans. A span that is longer stays whole all the same, for a word cut in two
    is worse than a slower window."""
    max_first_window_s: float
    """The same for the first window of a channel, so that the first text comes early."""
    max_gap_s: float
    """A longer pause always ends a window."""


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
        if span.is_torn:  # what follows would not fit: for that it was torn
            yield from self.flush()

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


def _longest_pause(pieces: Sequence[Span], limit: int) -> int:
    """Return how many pieces come before the longest pause of the second half; of equals, the latest."""
    half = pieces[0].start + limit // 2
    cuts = [cut for cut in range(1, len(pieces)) if cut == len(pieces) - 1 or pieces[cut - 1].end >= half]
    return max(cuts, key=lambda cut: (pieces[cut].start - pieces[cut - 1].end, cut))
