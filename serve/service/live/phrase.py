"""An open phrase: its committed words, and the window that is decoded next.

A window begins with committed words, which are given to the model as the beginning of its text, so that they
never change and need not be written again. When a window becomes long, its front moves up to a later
committed word. Knows no engine, no thread and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve.audio.samples import SAMPLE_RATE
from serve.engine import Hypothesis, ScoredToken, TimedText
from serve.engine.fallback import compression_ratio
from serve.transcript.events import Segment, Word, join_text


@dataclass(frozen=True)
class Committed:
    """A committed word in recording time."""

    word: Word
    tokens: tuple[int, ...]
    scored: tuple[ScoredToken, ...]


class Phrase:
    """Speech between two pauses."""

    def __init__(self, start: int) -> None:
        """Open a phrase at a sample of the recording."""
        self.front = start
        """First sample of the window."""
        self.committed: list[Committed] = []
        self.earlier: list[str] = []
        """Words of the last hypothesis behind the committed ones."""
        self._start_s = start / SAMPLE_RATE
        self._n_before = 0  # committed words before the window
        self._n_told = 0  # committed words of the phrase before, which the window may still begin with
        self._last: Hypothesis | None = None

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens of the committed words in the window."""
        return tuple(token for each in self.committed[self._n_before :] for token in each.tokens)

    def words_behind(self, hypothesis: Hypothesis, window_s: float) -> list[TimedText]:
        """Return the hypothesis's words behind the committed ones, in seconds of the window.

        Committed words do not change: what a hypothesis adds to the last of them is a word of its own.
        """
        self._last = hypothesis
        n_known = len(self.prefix)
        words = hypothesis.words
        if not words and hypothesis.text and not n_known:  # the engine tells no words
            words = (TimedText(text=hypothesis.text, start_s=0.0, end_s=window_s, tokens=hypothesis.tokens),)
        behind, n_tokens = [], 0
        for word in words:
            if n_tokens >= n_known:
                behind.append(word)
            elif n_tokens + len(word.tokens) > n_known and (rest := self._added(word, n_known - n_tokens)):
                behind.append(rest)
            n_tokens += len(word.tokens)
        return behind

    def _added(self, word: TimedText, n_known: int) -> TimedText | None:
        """Return what a word adds to the committed ones that it begins with.

        None where that is no word: a vowel sign, which needs the letter before it, or a full stop.

        Args:
            n_known: Tokens of the word that are committed.
        """
        known, n_tokens = "", 0
        for each in reversed(self.committed[self._n_before :]):
            if n_tokens < n_known:
                known, n_tokens = each.word.text + known, n_tokens + len(each.tokens)
        text = word.text.strip().removeprefix(known)
        if len(text) == len(word.text.strip()) or not text[:1].isalnum():
            return None
        tokens, scored = word.tokens[n_known:], word.scored[n_known:]
        return replace(word, text=text, tokens=tokens, scored=scored)

    def commit(self, words: Sequence[TimedText], end_s: float) -> tuple[Word, ...]:
        """Commit the next words, which end by `end_s` of the recording; return them in its time."""
        offset_s = self.front / SAMPLE_RATE
        usual = math.exp(self._last.avg_logprob) if self._last else 0.0
        n_before = len(self.committed)
        for word in words:
            earliest_s = self.committed[-1].word.end_s if self.committed else self._start_s
            start_s = min(max(offset_s + word.start_s, earliest_s), max(end_s, earliest_s))
            placed = Word(
                text=word.text.strip(),
                start_s=start_s,
                end_s=min(max(offset_s + word.end_s, start_s), max(end_s, start_s)),
                probability=usual if word.probability is None else word.probability,
            )
            self.committed.append(Committed(placed, word.tokens, word.scored))
        self.earlier = self.earlier[len(words) :]
        return tuple(each.word for each in self.committed[n_before:])

    def boundaries(self) -> list[float]:
        """Return where the window may begin instead: the starts of its later committed words, in seconds."""
        return [each.word.start_s for each in self.committed[self._n_before + 1 :]]

    def move_front(self, number: int, front: int) -> None:
        """Begin the window with the committed word of the boundary `number`, at sample `front`."""
        self._n_before += 1 + number
        self.front = front

    @property
    def own(self) -> list[Committed]:
        """Committed words that no phrase before it has."""
        return self.committed[self._n_told :]

    @property
    def committed_s(self) -> float:
        """Seconds from its first committed word to the end of the last."""
        own = self.own
        return own[-1].word.end_s - own[0].word.start_s if own else 0.0

    def split_off(self) -> Phrase:
        """Take all committed words as a phrase that is over; what follows them stays open.

        Clients were told of them as this phrase's, so none moves to the next. Those in the window are given
        to the model all the same.
        """
        over = Phrase(round(self._start_s * SAMPLE_RATE))
        over.committed, over._last = self.own, self._last
        self.committed, self._n_before = self.committed[self._n_before :], 0
        self._n_told = len(self.committed)
        self._start_s = over.committed[-1].word.end_s
        return over

    def segment(self, number: int, partial: str = "", end_s: float | None = None) -> Segment:
        """Return the phrase as a segment.

        Args:
            number: Its number.
            partial: Text behind the committed words.
            end_s: Where the partial text ends, in the recording.
        """
        own, last = self.own, self._last
        said = [each.word for each in own]
        text = join_text([*(word.text for word in said), partial])
        logprobs = [math.log(max(word.probability, 1e-6)) for word in said]
        usual = last.avg_logprob if last else 0.0
        start_s = said[0].start_s if said else self._start_s
        until_s = end_s if end_s is not None else said[-1].end_s if said else start_s
        return Segment(
            id=number,
            start_s=start_s,
            end_s=max(until_s, start_s),
            text=text,
            avg_logprob=sum(logprobs) / len(logprobs) if logprobs else usual,
            no_speech_prob=last.no_speech_prob if last else 0.0,
            language=last.language if last else "",
            language_prob=last.language_prob if last else None,
            tokens=tuple(token for each in own for token in each.tokens),
            temperature=last.temperature if last else 0.0,
            compression_ratio=compression_ratio(text),
            words=tuple(said),
            scored_tokens=tuple(token for each in own for token in each.scored),
        )
