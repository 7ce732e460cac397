"""Turn segments into subtitle cues: short lines, shown in sequence and long enough to read. Knows no format.

    subtitler = Subtitler()
    for segment in segments:
        show(subtitler.add(segment))    # its cues, as soon as they are final
    show(subtitler.finish())

Readers see grapheme clusters, not code points: क्षि is four code points and one letter to the eye. So lines
are measured in clusters (UAX 29).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import regex

from serve.errors import ConfigError
from serve.transcript.events import Segment

Array = npt.NDArray[np.float64]

SENTENCE_ENDS = tuple(".?!…।॥。？！؟")
"""A cue ends after one of these if possible."""

SENTENCE_END_WORTH = 0.25
"""Cost of imbalance that a break after a sentence outweighs; a full cue costs 1."""

INSIDE = 1e-6
"""Offset of an anchor from a word's border, in graphemes, so that each border has one time."""


@dataclass(frozen=True, kw_only=True)
class CueRules:
    """Limits of a cue."""

    max_line_graphemes: int = 42
    max_lines: int = 2
    max_cue_s: float = 7.0
    """Longest time that a cue is shown."""
    min_cue_s: float = 1.0
    """Shortest time that a cue is shown, where the pause after it allows."""

    def __post_init__(self) -> None:
        """Refuse rules that no cue could meet.

        Raises:
            ConfigError: A limit is not positive, or the times exclude each other.
        """
        faults = [f"{name} must be positive" for name, value in vars(self).items() if value <= 0]
        if self.min_cue_s > self.max_cue_s:
            faults.append("min_cue_s is above max_cue_s")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True, kw_only=True)
class Cue:
    """Lines shown together. Times are whole milliseconds, as in subtitle files."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Piece:
    """Text without a line break: a word, or a part of a word that is longer than a line."""

    text: str
    n_graphemes: int
    joined: bool
    """Whether no space separates it from the previous piece."""
    start_s: float
    end_s: float


class Subtitler:
    """Makes the cues of one recording, segment by segment."""

    def __init__(self, rules: CueRules | None = None) -> None:
        self._rules = rules or CueRules()
        self._end_ms: dict[int | None, int] = {}  # channel -> end of its last cue
        self._waiting: dict[int | None, Cue] = {}  # channel -> its last cue, if that is too short
        self._later: list[tuple[int, int, Cue]] = []  # a heap
        self._n_made = 0

    def add(self, segment: Segment) -> list[Cue]:
        """Return the cues that are final once this segment is known, in order of their start.

        A last cue that is too short waits, because the next segment decides how long it can be shown. Where
        channels are split, a cue also waits until no other channel can have an earlier one. No cue starts
        before the last cue of its channel has ended.

        Args:
            segment: Starts no earlier than the segment before it.
        """
        pieces = _pieces(segment, self._rules.max_line_graphemes)
        for first, end in _partition(len(pieces), lambda first, end: self._cost(pieces[first:end])):
            cue = self._placed(pieces[first:end], segment.channel)
            self._settle(segment.channel, cue.start_ms)
            self._end_ms[segment.channel] = cue.end_ms
            if cue.end_ms - cue.start_ms < self._rules.min_cue_s * 1000:
                self._waiting[segment.channel] = cue
            else:
                self._push(cue)
        if segment.channel is None:
            return self._released(math.inf)
        until_ms = round(segment.start_s * 1000)
        for channel, cue in list(self._waiting.items()):
            if cue.start_ms + self._rules.min_cue_s * 1000 <= until_ms:
                self._settle(channel, until_ms)
        return self._released(min([until_ms, *(cue.start_ms for cue in self._waiting.values())]))

    def finish(self, duration_s: float = math.inf) -> list[Cue]:
        """Return the remaining cues, which end with the recording at the latest."""
        for channel in list(self._waiting):
            self._settle(channel, duration_s * 1000)
        return self._released(math.inf)

    def _placed(self, pieces: Sequence[_Piece], channel: int | None) -> Cue:
        """Make a cue that starts as early as the cues before it allow."""
        start_ms = max(round(pieces[0].start_s * 1000), self._end_ms.get(channel, 0))
        latest_ms = start_ms + round(self._rules.max_cue_s * 1000)
        end_ms = min(max(round(pieces[-1].end_s * 1000), start_ms + 1), latest_ms)
        return Cue(start_ms=start_ms, end_ms=end_ms, lines=self._lines(pieces))

    def _settle(self, channel: int | None, limit_ms: float) -> None:
        """Show a channel's waiting cue, if there is one, as long as the limit allows."""
        cue = self._waiting.pop(channel, None)
        if cue is None:
            return
        wanted_ms = min(cue.start_ms + self._rules.min_cue_s * 1000, limit_ms)
        end_ms = max(cue.end_ms, math.floor(wanted_ms))
        self._end_ms[channel] = end_ms
        self._push(replace(cue, end_ms=end_ms))

    def _push(self, cue: Cue) -> None:
        heapq.heappush(self._later, (cue.start_ms, self._n_made, cue))
        self._n_made += 1

    def _released(self, until_ms: float) -> list[Cue]:
        """Return the cues that start until then."""
        released = []
        while self._later and self._later[0][0] <= until_ms:
            released.append(heapq.heappop(self._later)[2])
        return released

    def _lines(self, pieces: Sequence[_Piece]) -> tuple[str, ...]:
        """Break a cue into the fewest lines, with lengths as even as possible."""
        longest = self._rules.max_line_graphemes

        def cost(first: int, end: int) -> float | None:
            n_graphemes = _n_graphemes(pieces[first:end])
            return n_graphemes**2 if n_graphemes <= longest else None

        return tuple(_joined(pieces[first:end]) for first, end in _partition(len(pieces), cost))

    def _cost(self, pieces: Sequence[_Piece]) -> float | None:
        """Return the cost of a cue, 1 for a full one; None if it exceeds a limit; one word never does."""
        rules = self._rules
        fullest = rules.max_line_graphemes * rules.max_lines
        n_graphemes = _n_graphemes(pieces)
        if len(pieces) > 1 and (
            pieces[-1].end_s - pieces[0].start_s > rules.max_cue_s
            or _n_lines(pieces, rules.max_line_graphemes) > rules.max_lines
        ):
            return None
        ends_sentence = pieces[-1].text.endswith(SENTENCE_ENDS)
        return (n_graphemes / fullest) ** 2 - SENTENCE_END_WORTH * ends_sentence


def _pieces(segment: Segment, max_graphemes: int) -> list[_Piece]:
    """Split a text at spaces, and long words further, with the time of each piece."""
    parts: list[tuple[list[str], bool]] = []  # grapheme clusters, and whether no space precedes them
    for word in segment.text.split():
        clusters = regex.findall(r"\X", word)
        n_graphemes = math.ceil(len(clusters) / math.ceil(len(clusters) / max_graphemes))
        for first in range(0, len(clusters), n_graphemes):
            parts.append((clusters[first : first + n_graphemes], first > 0))
    ends = [0, *itertools.accumulate(len(clusters) for clusters, _ in parts)]
    starts_s, ends_s = _times(segment, np.array(ends, dtype=np.float64))
    return [
        _Piece("".join(clusters), len(clusters), joined, float(start_s), float(end_s))
        for (clusters, joined), start_s, end_s in zip(parts, starts_s, ends_s, strict=True)
    ]


def _times(segment: Segment, places: Array) -> tuple[Array, Array]:
    """Return the start and end of each stretch of a text, in seconds.

    Word times are used where they are known; otherwise every grapheme takes the same time.

    Args:
        places: Borders of the stretches, in graphemes without spaces, from 0 to the length of the text.
    """
    words = [(regex.findall(r"\X", word.text), word) for word in segment.words]
    ends = list(itertools.accumulate(len(clusters) for clusters, _ in words))
    if not ends or ends[-1] != places[-1]:
        times_s = np.interp(places, [0.0, places[-1]], [segment.start_s, segment.end_s])
        return times_s[:-1], times_s[1:]
    # A border between words has two times, so each anchor lies a little inside its word.
    anchors = [
        place
        for (clusters, _), end in zip(words, ends, strict=True)
        for place in (end - len(clusters) + INSIDE, end - INSIDE)
    ]
    anchors_s = np.maximum.accumulate([time_s for _, word in words for time_s in (word.start_s, word.end_s)])
    starts_s = np.interp(places[:-1] + INSIDE, anchors, anchors_s)
    return starts_s, np.interp(places[1:] - INSIDE, anchors, anchors_s)


def _partition(n_pieces: int, cost: Callable[[int, int], float | None]) -> list[tuple[int, int]]:
    """Group pieces into the fewest runs, and among such groupings choose the cheapest.

    Args:
        n_pieces: Number of pieces, which are numbered from 0.
        cost: Cost of the run [first, end); None if neither it nor a longer one is allowed.

    Returns:
        The runs in order. A piece that no run may hold forms its own.
    """
    best: list[tuple[int, float, int]] = [
        (0, 0.0, 0)
    ]  # for the pieces up to each index: number of runs, total cost, start of the last run
    for end in range(1, n_pieces + 1):
        ways = []
        for first in range(end - 1, -1, -1):
            price = cost(first, end)
            if price is None and first < end - 1:
                break
            n_runs, so_far, _ = best[first]
            ways.append((n_runs + 1, so_far + (price or 0.0), first))
        best.append(min(ways))
    runs: list[tuple[int, int]] = []
    end = n_pieces
    while end:
        first = best[end][2]
        runs.append((first, end))
        end = first
    return runs[::-1]


def _n_graphemes(pieces: Sequence[_Piece]) -> int:
    """Return the length of a line with these pieces."""
    return sum(piece.n_graphemes for piece in pieces) + sum(not piece.joined for piece in pieces[1:])


def _n_lines(pieces: Sequence[_Piece], max_graphemes: int) -> int:
    """Return the number of lines that these pieces need; greedy filling needs the fewest."""
    n_lines, n_graphemes = 1, 0
    for piece in pieces:
        grown = n_graphemes + piece.n_graphemes + (n_graphemes > 0 and not piece.joined)
        n_lines, n_graphemes = (
            (n_lines, grown) if grown <= max_graphemes else (n_lines + 1, piece.n_graphemes)
        )
    return n_lines


def _joined(pieces: Sequence[_Piece]) -> str:
    return pieces[0].text + "".join(piece.text if piece.joined else f" {piece.text}" for piece in pieces[1:])
