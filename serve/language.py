"""Language probabilities of windows -> the language of each window, and of the recording.

An adapter trained on one language cannot tell languages apart, so the base model does. Its answer for a
single window is often wrong: for a few words, or for a language that it confuses with another. Each window's
language therefore depends on the neighbouring windows too. A hidden Markov model (Rabiner, 1989) has the
language as its state; a change between two windows is unlikely, and the window's probabilities are the
evidence. The decision is a fixed-lag smoother: the likeliest language given all earlier windows and up to
`LOOK_AHEAD` later ones. It depends on the windows alone, not on when they arrive. Where a window may be in
the adapter's language or in a relative with the same script, such as Marathi and Hindi, a short draft by the
adapter is evidence too: its words show the language. Knows no engine and no samples.

The constants were chosen on 244 windows of speech: Hindi and English by people, Marathi words by people, and
synthetic Marathi. `bench/language.py` measures on other recordings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve.audio.features import MAX_WINDOW_S, pad_with_silence
from serve.audio.samples import FRAMES_PER_S, SAMPLE_RATE
from serve.audio.segmentation import Window
from serve.engine import DecodingOptions, EngineInput, Hypothesis, LanguageProbs
from serve.engine.languages import FAMILIES, TWINS, fits, written_alike

LOOK_AHEAD = 2
"""Later windows that may decide the language of a doubtful one. Its text waits for their detection."""

SURE_PROB = 0.9
"""A window whose language is this probable, given the windows so far, does not wait for later ones."""

SWITCH_ODDS = 0.08
"""Odds that the next window is in one given other language, rather than in the same language."""

LEAST_PROB = 0.006
"""Lower limit of a language's evidence in a window. A window misheard by the base model thus cannot outweigh
all others. It is slightly less than the odds of two switches: between two windows of one language, a window
that is sure of another keeps it, and a doubtful one does not."""

HEARD_PROB = 0.05
"""A language is considered once a window of the recording gives it as much evidence as this."""

FULL_SPEECH_S = 2.0
"""Windows with less speech than this have proportionally weaker evidence."""

OPEN_FACTOR = 8.0
OWN_FACTOR = 2.0
"""Weights of the evidence for the adapter's language; see `_own_evidence`."""

TWIN_SHARE = 0.5
"""The share of a language's probability that also counts as evidence for its twin."""

ALIKE_TWIN_SHARE = 0.8
"""The same where the language, and not its twin, has the adapter's script. The base model takes Hindi for
Urdu, with up to 0.7; from there on a single window is Urdu."""

RELATIVE_ODDS = 4.0
"""Odds for a relative in the adapter's script where base model and draft say the same of both. With even
odds, four of 38 windows in Hindi, most of them chosen for being doubtful, are taken for Marathi. With 2.2 to
8 none is, and of 25 in Marathi none for Hindi, if their drafts are in Marathi."""

TEXT_ODDS = 20.0
"""Most that a draft's text may speak for another language than the adapter's, and the odds from which a
language is out of the question. Five of 200 sentences in Hindi and Marathi look like another language, none
of them by more than 2:1. Drafts have misheard words besides."""

OWN_TEXT_ODDS = 3.0
"""The same for the adapter's language. An adapter leans to its own words, in what it hears badly the more."""

DRAFT_TOKENS = 48
"""Longest draft: about seven words in Devanagari."""

ASKED_TOGETHER = 4
"""Most windows per detection request. Several together allow the windows to be decoded in batches."""


class Listening(Protocol):
    """What tells languages apart; a part of `serve.pipeline.Decoder`."""

    def detect_languages(self, windows: Sequence[EngineInput]) -> Sequence[LanguageProbs]:
        """Return the base model's language probabilities for each window of 30 s."""

    def draft(self, windows: Sequence[EngineInput]) -> Sequence[Hypothesis]:
        """Decode each window once, however unlikely the text."""


@dataclass(frozen=True)
class Settled:
    """The language chosen for a window."""

    language: str
    probability: float
    """Posterior probability, given this window and its neighbours."""


class LanguageTrack:
    """Decides the languages of a recording's windows, in order."""

    def __init__(self, own: str | None, look_ahead: int = LOOK_AHEAD) -> None:
        """Start without windows.

        Args:
            own: Language of the requested adapter; None if there is no adapter.
            look_ahead: Later windows that a doubtful one may wait for.
        """
        self.most_asked = ASKED_TOGETHER if look_ahead else 1
        """Most windows to collect for one detection request."""
        self._own = own
        self._look_ahead = look_ahead
        self._codes: list[str] = []
        self._heard: npt.NDArray[np.bool_] | bool = False  # languages considered so far
        self._past: npt.NDArray[np.float64] | None = None  # belief about the last settled window
        self._open: deque[npt.NDArray[np.float64]] = deque()  # evidence of unsettled windows

    def rivals(self, probs: LanguageProbs) -> frozenset[str]:
        """Return the languages between which the adapter's text may decide; none where it need not.

        The base model confuses Marathi with Hindi, but an adapter for one writes words of the other where
        these are spoken, in the script of both.
        """
        likely = self._likely(probs)
        least = max(likely.values()) / TEXT_ODDS
        found = frozenset(code for code in written_alike(self._own) if likely.get(code, 0.0) >= least)
        return found if self._own in found and len(found) > 1 else frozenset()

    def push(
        self, probs: LanguageProbs, speech_s: float, shown: Mapping[str, float] | None = None
    ) -> list[Settled]:
        """Add the next window; return the languages that this settles, in order.

        Args:
            probs: The base model's language probabilities for the window.
            speech_s: Seconds of speech in the window.
            shown: How well each of its `rivals` fits a text of the window, if there is one.
        """
        self._open.append(self._evidence(probs, speech_s, shown))
        settled = []
        while self._open:
            first = self._first()
            if first.probability < SURE_PROB and len(self._open) <= self._look_ahead:
                break
            settled.append(self._settle(first))
        return settled

    def rest(self) -> list[Settled]:
        """Settle all remaining windows at the end of the recording; return their languages."""
        return [self._settle(self._first()) for _ in range(len(self._open))]

    def guess(
        self, probs: LanguageProbs, speech_s: float, shown: Mapping[str, float] | None = None
    ) -> Settled:
        """Return the language that the next window would get if it were the last; do not add it."""
        ahead = LanguageTrack(self._own)
        ahead._codes, ahead._heard = self._codes, self._heard
        ahead._past, ahead._open = self._past, self._open.copy()
        ahead._open.append(ahead._evidence(probs, speech_s, shown))
        return ahead.rest()[-1]

    def _likely(self, probs: LanguageProbs) -> dict[str, float]:
        """Return what the base model's answer says for each language."""
        alike = written_alike(self._own)
        likely = {
            code: prob + (ALIKE_TWIN_SHARE if code in alike else TWIN_SHARE) * _of_twin(probs, code)
            for code, prob in probs.items()
        }
        if self._own in likely:
            likely[self._own] = _own_evidence(probs, self._own)
        return likely

    def _evidence(
        self, probs: LanguageProbs, speech_s: float, shown: Mapping[str, float] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the likelihood of each language, up to a common factor."""
        self._codes = self._codes or sorted(probs)
        likely = self._likely(probs)
        if shown and self._own is not None:
            likely.update(_weighed(likely, shown, self._own))
        scaled = _scaled(np.array([likely[code] for code in self._codes]))
        self._heard = self._heard | (scaled >= min(HEARD_PROB, scaled.max()))
        evidence: npt.NDArray[np.float64] = np.maximum(scaled, LEAST_PROB) ** min(
            1.0, speech_s / FULL_SPEECH_S
        )
        return evidence

    def _first(self) -> Settled:
        """Return the likeliest language of the first open window, given all windows so far."""
        after = np.ones(len(self._codes))
        for evidence in list(self._open)[:0:-1]:
            after = _moved(evidence * after * self._heard)
        likely = self._before() * self._open[0] * after * self._heard
        best = int(likely.argmax())
        return Settled(self._codes[best], float(likely[best] / likely.sum()))

    def _settle(self, first: Settled) -> Settled:
        self._past = _scaled(self._before() * self._open.popleft())
        return first

    def _before(self) -> npt.NDArray[np.float64]:
        """Predict the first open window from the settled ones."""
        return np.ones(len(self._codes)) if self._past is None else _moved(self._past * self._heard)


def _own_evidence(probs: LanguageProbs, own: str) -> float:
    """Return the evidence for the adapter's own language.

    Adapters are trained for languages that the base model recognizes badly: it takes Marathi for Welsh, Latin
    or Armenian, but rarely with high probability. So what the base model leaves open beside the likeliest
    unrelated language counts as evidence. It is squared, because it falls steeply where the other language is
    right: with 0.7 for the other both are equally likely, with 0.95 the other about fifty times. Probability
    of a related language, such as Hindi, counts for that language alone: where the base model takes one for
    the other, it gives the right one a share. Limited, because a window without evidence favours none.
    """
    family = next((each for each in FAMILIES if own in each), frozenset((own,)))
    related = sum(prob for code, prob in probs.items() if code in family and code != own)
    others = [prob + _of_twin(probs, code) for code, prob in probs.items() if code not in family]
    left_open = max(0.0, 1 - related - max(others, default=0.0))
    return min(1.0, OPEN_FACTOR * left_open**2 + OWN_FACTOR * probs[own])


def _weighed(likely: Mapping[str, float], shown: Mapping[str, float], own: str) -> dict[str, float]:
    """Share out the evidence for some languages anew: by what it was, and by what a text shows.

    A language's twin is heard like it, and loses with it.
    """
    best = max(shown, key=lambda code: shown[code])
    least = shown[best] / (OWN_TEXT_ODDS if best == own else TEXT_ODDS)
    joint = {
        code: likely[code] * max(shown[code], least) / (RELATIVE_ODDS if code == own else 1.0)
        for code in shown
    }
    scale = sum(likely[code] for code in shown) / sum(joint.values())
    weighed = {code: scale * each for code, each in joint.items()}
    for code in shown:
        twin = TWINS.get(code)
        if twin is not None and twin in likely and twin not in shown:
            weighed[twin] = likely[twin] * min(1.0, weighed[code] / likely[code])
    return weighed


def _of_twin(probs: LanguageProbs, code: str) -> float:
    return probs.get(TWINS.get(code, ""), 0.0)


def _moved(likely: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Move the belief from a window to either neighbour."""
    return _scaled(likely + SWITCH_ODDS * (likely.sum() - likely))


def _scaled(likely: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = likely / likely.sum()
    return scaled


def settle_windows(
    windows: Iterable[tuple[Window, EngineInput]], listening: Listening, track: LanguageTrack
) -> Iterator[tuple[Window, EngineInput, float]]:
    """Yield each window, its input in the settled language, and that language's probability, in order.

    Args:
        windows: Read no further than the decisions require.
        listening: Called with few windows at first, for an early first text.
        track: Decides the languages.
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
        except Exception as error:  # raised once the windows before it are yielded
            fault = error
        if not some:
            break
        waiting += some
        heard = listening.detect_languages([whole for _, _, whole in some])
        texts = shown_by_texts([given for _, given, _ in some], heard, listening, track)
        settled: list[Settled] = []
        for (window, _, _), probs, shown in zip(some, heard, texts, strict=True):
            settled += track.push(probs, window.speech_samples / SAMPLE_RATE, shown)
        yield from _named(waiting, settled)
        n_asked = min(2 * n_asked, track.most_asked)
    yield from _named(waiting, track.rest())
    if fault is not None:
        raise fault


def shown_by_texts(
    windows: Sequence[EngineInput],
    heard: Sequence[LanguageProbs],
    listening: Listening,
    track: LanguageTrack,
) -> list[dict[str, float]]:
    """Return which rivals a draft of each window shows, and how clearly; empty where none is needed."""
    rivals = [track.rivals(probs) for probs in heard]
    doubted = [given for given, some in zip(windows, rivals, strict=True) if some]
    asked = [_in_draft(given) for given in doubted]
    drafts = iter(listening.draft(asked) if asked else ())
    for given, draft in zip(doubted, asked, strict=True):
        given.encoded = draft.encoded  # for its text, if it is in the adapter's language
    return [fits(next(drafts).text, some) if some else {} for some in rivals]


def _in_draft(given: EngineInput) -> EngineInput:
    """Return the input for the adapter's draft: short, and led by nothing but the sound."""
    options = given.options
    draft = DecodingOptions(
        language=options.expected_language,
        adapter=options.adapter,
        max_new_tokens=min(DRAFT_TOKENS, options.max_new_tokens),
    )
    return replace(given, options=draft)


def _named(
    waiting: deque[tuple[Window, EngineInput, EngineInput]], settled: Iterable[Settled]
) -> Iterator[tuple[Window, EngineInput, float]]:
    for each in settled:
        window, given, whole = waiting.popleft()
        yield window, in_language(given, whole, each.language), each.probability


def whole_window(given: EngineInput) -> EngineInput:
    """Return the window padded to 30 s, the length at which Whisper was trained to detect languages.

    Detection in a window of the speech's own length is eight times as fast but worse: of seven stretches of
    Hindi with probabilities of 0.2 to 0.6 there, six gain 0.1 to 0.3 at 30 s.
    """
    log_mel = pad_with_silence(given.log_mel, int(MAX_WINDOW_S * FRAMES_PER_S))
    return EngineInput(log_mel=log_mel, options=given.options)


def in_language(given: EngineInput, whole: EngineInput, language: str) -> EngineInput:
    """Return the input for decoding in a language; the base model decodes all but the adapter's language.

    Args:
        given: Window for the adapter.
        whole: Window of 30 s for the base model, perhaps with its encoder output from detection.
        language: Settled language.
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
