"""Which language each window is in, and which one a recording is in. Knows no engine and no samples.

The base model says how probable each language is in a window: an adapter that was trained on one language
no longer tells them apart. What it says of one window is often wrong, above all where little is said, or
where it takes a language for its relative. So a window's language follows the windows around it as well: a
hidden Markov model (Rabiner, 1989) whose state is the language. It seldom changes from one window to the
next, and the probabilities of a window are its evidence, the more so the more speech is in it. A window's
language is the likeliest one, given all windows before it and up to `LOOK_AHEAD` behind it (a fixed-lag
smoother). What comes out depends on the windows alone, not on when they come.

The constants were chosen on 244 windows of 43 recordings of people who speak Hindi, 36 of Marathi words and 3
of English, and on 75 windows of synthetic Marathi; `bench/language.py` measures on others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from serve.audio.features import MAX_WINDOW_S, pad_with_silence
from serve.audio.samples import FRAMES_PER_S, SAMPLE_RATE
from serve.audio.segmentation import Window
from serve.engine import EngineInput, Hypothesis, LanguageProbs

LOOK_AHEAD = 2
"""Windows behind one in doubt that may settle its language; its text waits until they are listened to."""

SURE_PROB = 0.9
"""A window whose language is as probable as this, given the windows so far, waits for no more of them."""

SWITCH_ODDS = 0.08
"""Odds that the next window is in another given language rather than in the same."""

LEAST_PROB = 0.005
"""No window speaks more against a language than this, however sure the base model is: so one window that it
mistakes does not outweigh all of those around it. Between two windows of one language, one that is sure of
another keeps it, for this is less than the odds of two switches, and one in doubt follows them."""

FULL_SPEECH_S = 2.0
"""Seconds of speech from which a window has its full say; one with less has the less."""

OWN_FACTOR = 8.0
"""Weighs what the base model leaves open in favour of the adapter's own language: see `_own_evidence`."""

TWINS = {"hi": "ur", "ur": "hi", "no": "nn", "nn": "no", "id": "ms", "ms": "id", "hr": "sr", "sr": "hr"}
"""Languages that are spoken alike and written apart: which of two it is the base model can hardly hear."""

TWIN_SHARE = 0.5
"""How much of what is said for a language is said for its twin as well."""

ASKED_TOGETHER = 4
"""Windows whose languages are asked for at a time, so that those behind them can be decoded together."""

Detect = Callable[[Sequence[EngineInput]], Sequence[LanguageProbs]]
"""Asks the base model how probable each language is in each window."""


@dataclass(frozen=True)
class Settled:
    """The language of a window."""

    language: str
    probability: float
    """Given the windows around it."""


class LanguageTrack:
    """The languages of a recording's windows, one after the other."""

    def __init__(self, own: str | None, look_ahead: int = LOOK_AHEAD) -> None:
        """Begin.

        Args:
            own: The language of the adapter that decodes it, if there is one.
            look_ahead: Windows that one in doubt may wait for.
        """
        self.most_asked = ASKED_TOGETHER if look_ahead else 1
        """Windows that may be waited for before their languages are asked for."""
        self._own = own
        self._look_ahead = look_ahead
        self._codes: list[str] = []
        self._past: npt.NDArray[np.float64] | None = None  # of the last settled window, given all before it
        self._open: deque[npt.NDArray[np.float64]] = deque()  # evidence of the windows that are not settled

    def push(self, probs: LanguageProbs, speech_s: float) -> list[Settled]:
        """Take in the next window; return the languages of those that are settled now, in order.

        Args:
            probs: What the base model says of it.
            speech_s: Seconds of speech in it.
        """
        self._open.append(self._evidence(probs, speech_s))
        settled = []
        while self._open:
            first = self._first()
            if first.probability < SURE_PROB and len(self._open) <= self._look_ahead:
                break
            settled.append(self._settle(first))
        return settled

    def rest(self) -> list[Settled]:
        """Return the languages of the windows that wait for others: none will come."""
        return [self._settle(self._first()) for _ in range(len(self._open))]

    def guess(self, probs: LanguageProbs, speech_s: float) -> Settled:
        """Say what a window would be in if it were the next and the last; it is not taken in."""
        ahead = LanguageTrack(self._own)
        ahead._codes, ahead._past, ahead._open = self._codes, self._past, self._open.copy()
        ahead._open.append(ahead._evidence(probs, speech_s))
        return ahead.rest()[-1]

    def _evidence(self, probs: LanguageProbs, speech_s: float) -> npt.NDArray[np.float64]:
        """Return how likely a window is in each language, up to a factor."""
        self._codes = self._codes or sorted(probs)
        likely = {code: probs[code] + TWIN_SHARE * _of_twin(probs, code) for code in self._codes}
        if self._own in likely:
            likely[self._own] = _own_evidence(probs, self._own)
        scaled = np.maximum(_scaled(np.array([likely[code] for code in self._codes])), LEAST_PROB)
        evidence: npt.NDArray[np.float64] = scaled ** min(1.0, speech_s / FULL_SPEECH_S)
        return evidence

    def _first(self) -> Settled:
        """Return the likeliest language of the first open window, given all that was taken in."""
        after = np.ones(len(self._codes))
        for evidence in list(self._open)[:0:-1]:
            after = _moved(evidence * after)
        likely = self._before() * self._open[0] * after
        best = int(likely.argmax())
        return Settled(self._codes[best], float(likely[best] / likely.sum()))

    def _settle(self, first: Settled) -> Settled:
        self._past = _scaled(self._before() * self._open.popleft())
        return first

    def _before(self) -> npt.NDArray[np.float64]:
        """Return how likely each language is by the settled windows alone."""
        return np.ones(len(self._codes)) if self._past is None else _moved(self._past)


def _own_evidence(probs: LanguageProbs, own: str) -> float:
    """Return how likely a window is in the adapter's own language.

    An adapter is made where the base model hears badly: it takes Marathi for Welsh, Latin, Hindi or whatever
    else, but seldom surely. So what counts is not what it gives to that language, but what it leaves open
    beside the likeliest other one, squared: where that has 0.7 both are equally likely, and where it has 0.95
    it is fifty times as likely. A window that tells nothing speaks for no language: so there is a limit.
    """
    others = [prob + _of_twin(probs, code) for code, prob in probs.items() if code != own]
    return min(1.0, OWN_FACTOR * max(0.0, 1 - max(others, default=0.0)) ** 2)


def _of_twin(probs: LanguageProbs, code: str) -> float:
    return probs.get(TWINS.get(code, ""), 0.0)


def _moved(likely: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Go from a window to its neighbour, on either side."""
    return _scaled(likely + SWITCH_ODDS * (likely.sum() - likely))


def _scaled(likely: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = likely / likely.sum()
    return scaled


def settle_windows(
    windows: Iterable[tuple[Window, EngineInput]], detect: Detect, track: LanguageTrack
) -> Iterator[tuple[Window, EngineInput, float]]:
    """Name the language of each window, in order, and how probable it is.

    Args:
        windows: Pulled no further than the languages of those before take.
        detect: Asked about few at first, so that the first text comes early.
        track: Settles them.
    """
    source = iter(windows)
    waiting: deque[tuple[Window, EngineInput, EngineInput]] = deque()
    n_asked = 1
    fault: Exception | None = None
    while fault is None:
        some: list[tuple[Window, EngineInput, EngineInput]] = []
        try:
            for window, given in islice(source, n_asked):
                some.append((window, given, whole_window(given)))
        except Exception as error:  # what was found before it goes out first
            fault = error
        if not some:
            break
        waiting += some
        settled: list[Settled] = []
        for (window, _, _), probs in zip(some, detect([whole for _, _, whole in some]), strict=True):
            settled += track.push(probs, window.speech_samples / SAMPLE_RATE)
        yield from _named(waiting, settled)
        n_asked = min(2 * n_asked, track.most_asked)
    yield from _named(waiting, track.rest())
    if fault is not None:
        raise fault


def _named(
    waiting: deque[tuple[Window, EngineInput, EngineInput]], settled: Iterable[Settled]
) -> Iterator[tuple[Window, EngineInput, float]]:
    for each in settled:
        window, given, whole = waiting.popleft()
        yield window, in_language(given, whole, each.language), each.probability


def whole_window(given: EngineInput) -> EngineInput:
    """Return a window lengthened to 30 s, in which the base model learned to tell languages.

    In a window of the speech's own length it is less sure: of eight stretches of people's Hindi that it gave
    0.2 to 0.6 there, it gives seven 0.1 to 0.3 more in 30 s.
    """
    log_mel = pad_with_silence(given.log_mel, int(MAX_WINDOW_S * FRAMES_PER_S))
    return EngineInput(log_mel=log_mel, options=given.options)


def in_language(given: EngineInput, whole: EngineInput, language: str) -> EngineInput:
    """Return a window that is to be decoded in a language: by the base model where it is not the adapter's.

    Args:
        given: As the adapter hears it.
        whole: As the base model hears it, and has encoded it to tell the language: it need not do so again.
        language: The one that was settled.
    """
    options = replace(given.options, language=language)
    if given.options.expected_language not in (None, language):
        options = replace(options, adapter=None)
    return replace(whole if options.adapter is None else given, options=options)


def settle_recording(heard: Sequence[Hypothesis]) -> tuple[str, float | None]:
    """Return the language with the highest sum of probabilities, and its mean probability."""
    probs: dict[str, list[float | None]] = {}
    for hypothesis in heard:
        probs.setdefault(hypothesis.language, []).append(hypothesis.language_prob)
    language = max(probs, key=lambda code: sum(1.0 if prob is None else prob for prob in probs[code]))
    known = [prob for prob in probs[language] if prob is not None]
    return language, sum(known) / len(known) if known else None
