"""Whether what was heard in a window is believable, and what is tried when it is not. Knows no engine.

The rules are those of openai/whisper, with four differences: the measure of repetition holds for every
script, a beam search comes before the first random draw, a text that loops or fills its limit is never
believed, and an empty one always is. A window whose first attempt is believed costs one attempt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from serve.engine import DecodingOptions, Hypothesis

MAX_COMPRESSION_RATIO = 2.4
"""A text that zlib shortens more than this repeats itself."""

MIN_AVG_LOGPROB = -1.0
"""A text of less likely tokens is a guess."""

NO_SPEECH_PROB = 0.6
"""A window is noise when the model says so this surely and its text is a guess at the same time."""

FALLBACK_BEAM_SIZE = 5
FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One way to decode a window."""

    temperature: float
    beam_size: int


Decode = Callable[[list[int], list[DecodingOptions]], list[Hypothesis]]
"""Decodes these rows of a batch with these options each, once."""


def attempts(options: DecodingOptions, *, beams: bool = True) -> Iterator[Attempt]:
    """Yield what is tried in turn: what was asked for, then, where no temperature was, what is less likely.

    Args:
        options: As the caller gave them.
        beams: Whether the engine can keep several texts side by side.
    """
    first = Attempt(temperature=options.temperature, beam_size=options.beam_size)
    yield first
    if options.temperature > 0:
        return
    if beams and first.beam_size < FALLBACK_BEAM_SIZE:
        yield Attempt(temperature=0.0, beam_size=FALLBACK_BEAM_SIZE)
    for temperature in FALLBACK_TEMPERATURES:
        yield Attempt(temperature=temperature, beam_size=1)


def decode_until_believed(
    options: Sequence[DecodingOptions], decode: Decode, *, beams: bool = True
) -> list[Hypothesis]:
    """Decode the rows of a batch, again and again those alone whose text is not believed.

    Args:
        options: Of each row.
        decode: The engine.
        beams: Whether the engine can keep several texts side by side.

    Returns:
        The first believable hypothesis of each row; where there is none, the one that fails least.
    """
    plans = [attempts(option, beams=beams) for option in options]
    best: dict[int, Hypothesis] = {}
    rows = list(range(len(options)))
    while rows:
        planned = [(row, attempt) for row in rows if (attempt := next(plans[row], None)) is not None]
        if not planned:
            break
        tried = [
            replace(options[row], temperature=attempt.temperature, beam_size=attempt.beam_size)
            for row, attempt in planned
        ]
        rows = [row for row, _ in planned]
        for row, option, found in zip(rows, tried, decode(rows, tried), strict=True):
            hypothesis = measured(found, option.temperature)
            if row not in best or is_believable(hypothesis) or _worth(hypothesis) > _worth(best[row]):
                best[row] = hypothesis
        rows = [row for row in rows if not is_believable(best[row])]
    return [best[row] for row in range(len(options))]


def measured(hypothesis: Hypothesis, temperature: float) -> Hypothesis:
    """Write into a hypothesis what the rules look at, and the temperature it was decoded with."""
    return replace(hypothesis, temperature=temperature, compression_ratio=compression_ratio(hypothesis.text))


def is_believable(hypothesis: Hypothesis) -> bool:
    """Tell whether a text may be given out; one that is not is worth another attempt."""
    if not hypothesis.text or is_no_speech(hypothesis):
        return True
    return not (repeats(hypothesis) or hypothesis.truncated or hypothesis.avg_logprob < MIN_AVG_LOGPROB)


def repeats(hypothesis: Hypothesis) -> bool:
    """Tell whether a text goes in circles."""
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
