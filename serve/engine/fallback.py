"""Whether what was heard in a window is believable, and what is tried when it is not. Knows no engine.

The rules are those of openai/whisper, with five differences: the measure of repetition holds for every
script, a text may repeat what the sound repeats, a beam search comes before the first random draw, a text
that loops or fills its limit is never believed, and an empty one always is. A window whose first attempt is
believed costs one attempt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from serve.engine import DecodingOptions, Hypothesis

MAX_COMPRESSION_RATIO = 2.4
"""A text that zlib shortens more than this repeats itself."""

MIN_AVG_LOGPROB = -1.0
"""A text of less likely tokens is a guess."""

NO_SPEECH_PROB = 0.6
"""A window is noise when the model says so this surely and its text is a guess at the same time."""

FALLBACK_BEAM_SIZE = 5
FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)


def attempts(options: DecodingOptions) -> Iterator[DecodingOptions]:
    """Yield what is tried in turn: what was asked for; where no temperature was, less likely texts too."""
    yield options
    if options.temperature > 0:
        return
    if options.beam_size < FALLBACK_BEAM_SIZE:
        yield replace(options, beam_size=FALLBACK_BEAM_SIZE)
    for temperature in FALLBACK_TEMPERATURES:
        yield replace(options, temperature=temperature, beam_size=1)


class Trial:
    """The attempts at one window."""

    def __init__(self, options: DecodingOptions) -> None:
        """Begin with the options that were asked for."""
        self._asked = options
        self._attempts = attempts(options)
        self.options = next(self._attempts)
        """Options of the attempt that is to be made."""
        self._best: Hypothesis | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether the text was drawn at random although nobody asked for that."""
        return self._best is not None and self._best.temperature != self._asked.temperature

    def take(
        self, found: Hypothesis, can: Callable[[DecodingOptions], bool] = lambda options: True
    ) -> Hypothesis | None:
        """Take in what an attempt has found.

        Args:
            found: What the engine heard.
            can: Tells whether the engine can decode with these options; attempts it cannot make are left out.

        Returns:
            The first believable hypothesis, or, once everything was tried, the one that fails least. None
            where another attempt is to be made.
        """
        ratio = compression_ratio(found.text)
        found = replace(found, temperature=self.options.temperature, compression_ratio=ratio)
        if self._best is None or is_believable(found) or _worth(found) > _worth(self._best):
            self._best = found
        if is_believable(found) or (further := next(filter(can, self._attempts), None)) is None:
            return self._best
        self.options = further
        return None


def is_believable(hypothesis: Hypothesis) -> bool:
    """Tell whether a text may be given out; one that is not is worth another attempt."""
    if not hypothesis.text or is_no_speech(hypothesis):
        return True
    return not (repeats(hypothesis) or hypothesis.truncated or hypothesis.avg_logprob < MIN_AVG_LOGPROB)


def repeats(hypothesis: Hypothesis) -> bool:
    """Tell whether a text goes in circles, other than the sound."""
    if hypothesis.is_echo:
        return False
    return hypothesis.looped or hypothesis.compression_ratio > MAX_COMPRESSION_RATIO


def is_no_speech(hypothesis: Hypothesis) -> bool:
    """Tell whether the model heard no speech and does not trust its own words either."""
    return hypothesis.no_speech_prob > NO_SPEECH_PROB and hypothesis.avg_logprob < MIN_AVG_LOGPROB


def compression_ratio(text: str) -> float:
    """Return the letters of a text to the bytes that zlib makes of them.

    A letter counts as one byte, whatever its script: in UTF-8 a Devanagari letter has three bytes, two of
    them always the same, and honest sentences would pass for repetitions. Of letters beyond ASCII the low
    seven bits are kept, and the block they lie in is written down where it changes.
    """
    if not text:
        return 1.0
    letters = bytearray()
    block = 0
    for letter in map(ord, text):
        if letter < 0x80:
            letters.append(letter)
            continue
        if letter >> 7 != block:
            block = letter >> 7
            letters += block.to_bytes(2, "big")
        letters.append(0x80 | letter & 0x7F)
    return len(letters) / len(zlib.compress(letters))


def _worth(hypothesis: Hypothesis) -> tuple[bool, bool, float]:
    return not repeats(hypothesis), not hypothesis.truncated, hypothesis.avg_logprob
