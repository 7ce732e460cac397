"""Two windows that overlap -> the same texts, each word in one of them.

Where speech is cut without a pause, the later window begins a little before the earlier one ends
(`serve.audio.segmentation`): the words there are heard twice, and the one under the cut is whole in the later
window at least. The texts are parted at a word that both write at the same time; where they agree on none, by
the times of words alone. Times are the model's, or guessed from the letters before a word.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import Window
from serve.engine import Hypothesis, TimedText
from serve.engine.vocabulary import SPACELESS_LANGUAGES

WORDS_COMPARED = 12
"""Words of each text: more than anybody says in an overlap of two seconds."""

ALIKE = 0.7
"""Share of letters that two spellings of a word have in common; the model writes few words alike twice."""

APART_S = 0.5
"""How far apart the model places the same word in two windows, at most."""

APART_GUESSED_S = 1.5
"""The same where the times of words are guessed."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was heard in a window, and the time that it fills."""

    window: Window
    hypothesis: Hypothesis
    """Times count from the start of the window."""
    start_s: float
    """Seconds of the recording; what lies before belongs to another window."""
    end_s: float

    @classmethod
    def whole(cls, window: Window, hypothesis: Hypothesis) -> Heard:
        """Return a hypothesis that fills its window."""
        return cls(
            window=window,
            hypothesis=hypothesis,
            start_s=window.start / SAMPLE_RATE,
            end_s=window.end / SAMPLE_RATE,
        )


@dataclass(frozen=True)
class _Seam:
    """Where two texts are parted."""

    n_before: int
    """Words that the earlier text keeps."""
    n_behind: int
    """Words that the later text gives up."""


def join(earlier: Heard, later: Heard) -> tuple[Heard, Heard]:
    """Part two overlapping texts, so that nothing is written twice and nothing is lost."""
    begin_s, end_s = later.start_s, earlier.end_s
    before, behind = _words(earlier), _words(later)
    is_timed = bool(earlier.hypothesis.words and later.hypothesis.words)
    seam = _agreement(before, behind, (begin_s + end_s) / 2, APART_S if is_timed else APART_GUESSED_S)
    seam = seam or _by_times(before, behind, begin_s, end_s)
    kept, left = before[: seam.n_before], behind[seam.n_behind :]
    at_s = ((kept[-1].end_s if kept else begin_s) + (left[0].start_s if left else end_s)) / 2
    at_s = min(max(at_s, begin_s), end_s)
    first = _part(earlier.hypothesis, slice(len(kept)), end=_count(kept))
    last = _part(later.hypothesis, slice(seam.n_behind, None), begin=_count(behind[: seam.n_behind]))
    return (
        replace(earlier, hypothesis=first, end_s=at_s),
        replace(later, hypothesis=last, start_s=at_s, end_s=max(at_s, later.end_s)),
    )


def _words(heard: Heard) -> list[TimedText]:
    """Return the words of a text in recording time, the times guessed where the engine gave none."""
    window, hypothesis = heard.window, heard.hypothesis
    start_s = window.start / SAMPLE_RATE
    if hypothesis.words:
        return [
            replace(word, start_s=start_s + word.start_s, end_s=start_s + word.end_s)
            for word in hypothesis.words
        ]
    spaceless = hypothesis.language in SPACELESS_LANGUAGES
    texts = list("".join(hypothesis.text.split())) if spaceless else hypothesis.text.split()
    n_letters = np.cumsum([0, *map(len, texts)])
    # Letters are spread over the speech, the pauses left out.
    spoken = np.cumsum([0, *(length for span in window.spans for length in (span.end - span.start, 0))])[:-1]
    places = [place for span in window.spans for place in (span.start, span.end)]
    letter = spoken[-1] / max(1, n_letters[-1])
    at_s = np.interp(n_letters * letter, spoken, places) / SAMPLE_RATE
    return [
        TimedText(text=text, start_s=float(at_s[n]), end_s=float(at_s[n + 1])) for n, text in enumerate(texts)
    ]


def _agreement(
    before: Sequence[TimedText], behind: Sequence[TimedText], middle_s: float, apart_s: float
) -> _Seam | None:
    """Find the word that both texts write at the same time, best in the middle of what both heard."""

    def likeness(one: int, other: int) -> float:
        inside = 0 <= one < len(before) and 0 <= other < len(behind)
        return _likeness(before[one].text, behind[other].text) if inside else 0.0

    found: list[tuple[float, int, int]] = []
    for one in range(max(0, len(before) - WORDS_COMPARED), len(before)):
        for other in range(min(WORDS_COMPARED, len(behind))):
            distance_s = abs(_middle_s(before[one]) - _middle_s(behind[other]))
            if distance_s > apart_s or (alike := likeness(one, other)) < ALIKE:
                continue
            neighbours = (likeness(one - 1, other - 1) + likeness(one + 1, other + 1)) / 2
            off_s = abs((_middle_s(before[one]) + _middle_s(behind[other])) / 2 - middle_s)
            found.append((alike + neighbours / 2 - distance_s / apart_s - off_s / 2, one, other))
    if not found:
        return None
    _, one, other = max(found)
    # Whichever window has more sound around the word writes it; a word at an edge may be half of one.
    is_late = (_middle_s(before[one]) + _middle_s(behind[other])) / 2 > middle_s
    is_last, is_first = one == len(before) - 1, other == 0
    return _Seam(one, other) if (is_late or is_last) and not is_first else _Seam(one + 1, other + 1)


def _by_times(
    before: Sequence[TimedText], behind: Sequence[TimedText], begin_s: float, end_s: float
) -> _Seam:
    """Part texts that agree on no word between two words of the earlier one, near the middle of both."""
    if not any(_middle_s(word) > begin_s for word in before) or not any(
        _middle_s(word) < end_s for word in behind
    ):
        return _Seam(len(before), 0)  # one of them heard nothing that the other did
    middle_s = (begin_s + end_s) / 2
    borders_s = [word.start_s for word in before if begin_s < word.start_s < end_s]
    at_s = min(borders_s, key=lambda border_s: abs(border_s - middle_s), default=middle_s)
    n_before = sum(_middle_s(word) < at_s for word in before)
    return _Seam(n_before, sum(_middle_s(word) < at_s for word in behind))


def _middle_s(word: TimedText) -> float:
    return (word.start_s + word.end_s) / 2


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, _bare(one), _bare(other), autojunk=False).ratio()


def _bare(word: str) -> str:
    """Return a word without punctuation and capitals."""
    return "".join(letter for letter in word.casefold() if unicodedata.category(letter)[0] not in "PSZ")


def _part(hypothesis: Hypothesis, words: slice, *, begin: int = 0, end: int = sys.maxsize) -> Hypothesis:
    """Return some words of a hypothesis, and its text between two counts of letters, spaces not counted."""
    kept, n_before = hypothesis.words[words], 0
    sentences = []
    for sentence in hypothesis.sentences:
        text = _letters(sentence.text, begin - n_before, end - n_before)
        n_before += _n_letters(sentence.text)
        if text.strip():
            sentences.append(replace(sentence, text=text, tokens=_tokens_if_whole(sentence, text)))
    return replace(
        hypothesis,
        text=_letters(hypothesis.text, begin, end).strip(),
        tokens=tuple(token for word in kept for token in word.tokens),
        sentences=tuple(sentences),
        words=kept,
    )


def _tokens_if_whole(sentence: TimedText, text: str) -> tuple[int, ...]:
    return sentence.tokens if text == sentence.text else ()


def _count(words: Sequence[TimedText]) -> int:
    return sum(_n_letters(word.text) for word in words)


def _n_letters(text: str) -> int:
    return len("".join(text.split()))


def _letters(text: str, begin: int, end: int) -> str:
    return text[_place(text, begin) : _place(text, end)]


def _place(text: str, n_letters: int) -> int:
    """Return the index in a text behind so many letters, spaces not counted."""
    for place, letter in enumerate(text):
        if n_letters <= 0:
            return place
        n_letters -= not letter.isspace()
    return len(text)
