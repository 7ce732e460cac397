"""Decide whether a hypothesis is believable, and which options to try when it is not. Knows no engine.

The rules are those of openai/whisper, with five differences: the compression ratio is fair to every script, a
text may repeat what the sound repeats, a beam search precedes the first random draw, a text that loops or
reaches its token limit is never accepted, and an empty one always is. A window whose first attempt is
believable costs one attempt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from serve.engine import DecodingOptions, Hypothesis

MAX_COMPRESSION_RATIO = 2.4
"""A text with a higher compression ratio repeats itself."""

MIN_AVG_LOGPROB = -1.0
"""A text with a lower mean log-probability is a guess."""

NO_SPEECH_PROB = 0.6
"""A window is noise when its no-speech probability is higher and its text is a guess."""

FALLBACK_BEAM_SIZE = 5
FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)


def attempts(options: DecodingOptions) -> Iterator[DecodingOptions]:
    """Yield the requested options, then fallbacks unless a temperature was requested."""
    yield options
    if options.temperature > 0:
        return
    if options.beam_size < FALLBACK_BEAM_SIZE:
        yield replace(options, beam_size=FALLBACK_BEAM_SIZE)
    for temperature in FALLBACK_TEMPERATURES:
        yield replace(options, temperature=temperature, beam_size=1)


class Trial:
    """The decoding attempts for one window."""

    def __init__(self, options: DecodingOptions, *, is_draft: bool = False) -> None:
        """Start without an attempt; of a draft the first one is taken, whatever it gives."""
        self.is_draft = is_draft
        self._asked = options
        self._attempts = islice(attempts(options), 1 if is_draft else None)
        self.options = next(self._attempts)
        """Options of the attempt to make next."""
        self._best: Hypothesis | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether the text was sampled although the request asked for temperature 0."""
        return self._best is not None and self._best.temperature != self._asked.temperature

    def take(
        self, found: Hypothesis, can: Callable[[DecodingOptions], bool] = lambda options: True
    ) -> Hypothesis | None:
        """Judge the hypothesis of the current attempt.

        Args:
            can: Tells whether the engine supports these options; unsupported attempts are skipped.

        Returns:
            The first believable hypothesis; the best one once all attempts are used up; None where `options`
            should be tried next.
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
    """Tell whether a text may be returned without another attempt."""
    if not hypothesis.text or is_no_speech(hypothesis):
        return True
    return not (repeats(hypothesis) or hypothesis.truncated or hypothesis.avg_logprob < MIN_AVG_LOGPROB)


def repeats(hypothesis: Hypothesis) -> bool:
    """Tell whether a text repeats itself and the sound does not."""
    if hypothesis.is_echo:
        return False
    return hypothesis.looped or hypothesis.compression_ratio > MAX_COMPRESSION_RATIO


def is_no_speech(hypothesis: Hypothesis) -> bool:
    """Tell whether the model found no speech and its text is a guess."""
    return hypothesis.no_speech_prob > NO_SPEECH_PROB and hypothesis.avg_logprob < MIN_AVG_LOGPROB


def compression_ratio(text: str) -> float:
    """Return the letters of a text divided by their zlib-compressed bytes.

    Each letter counts as one byte, whatever its script. In UTF-8 a Devanagari letter has three bytes, two of
    them always the same, so honest sentences would look like repetitions. Letters beyond ASCII keep their low
    seven bits; their Unicode block is written where it changes.
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
