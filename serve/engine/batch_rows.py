"""Settle the language of each row of a batch, and part rows by adapter, those for the base alone among them.

The base model detects languages, in windows of 30 s: an adapter that was trained on one language no longer
tells them apart. Knows no runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from serve.audio.features import MAX_WINDOW_S, pad_with_silence
from serve.audio.samples import FRAMES_PER_S
from serve.engine import SERVED_ADAPTER, DecodingOptions, Hypothesis, LogMel

SURE_PROB = 0.9
"""What the base model must give a language to be believed against the adapter's own. An adapter is made where
the base hears badly: of 50 clips of Marathi it took every one for another language, at 0.85 and less, and six
clips of English for English at 0.94 and more."""

Encoded = TypeVar("Encoded")
"""What a runtime's encoder makes of a batch."""

Detect = Callable[[list[LogMel]], tuple[Encoded, list[tuple[str, float]]]]
"""Encodes windows of 30 s with the base model alone; finds each row's likeliest language and how likely."""

Transcribe = Callable[[str | None, list[LogMel], list[DecodingOptions], Encoded | None], list[Hypothesis]]
"""Decodes windows whose language is known, all for one adapter or all for the base model alone (None); what
the base has encoded of them already is given."""


def transcribe_rows(
    log_mels: Sequence[LogMel],
    options: Sequence[DecodingOptions],
    *,
    has_adapter: bool,
    only_language: str | None,
    detect: Detect[Encoded],
    transcribe: Transcribe[Encoded],
) -> list[Hypothesis]:
    """Decode windows of all kinds; the answer is in the order of the input.

    Args:
        log_mels: The windows.
        options: Of each.
        has_adapter: Whether the engine was loaded with an adapter.
        only_language: Of a checkpoint that knows no other, whatever the options say.
        detect: The engine's.
        transcribe: The engine's.
    """
    assert len(log_mels) == len(options)
    if only_language is not None:
        options = [replace(option, language=only_language) for option in options]
    windows = list(log_mels)
    settled = list(options) if has_adapter else [_without_served(option) for option in options]
    probs: list[float | None] = [None] * len(options)
    unnamed = [row for row, option in enumerate(options) if option.language is None]
    encoded: Encoded | None = None
    if unnamed:
        for row in unnamed:
            windows[row] = pad_with_silence(log_mels[row], int(MAX_WINDOW_S * FRAMES_PER_S))
        encoded, detected = detect([windows[row] for row in unnamed])
        for row, found in zip(unnamed, detected, strict=True):
            settled[row], probs[row] = _settled(settled[row], *found)
            if settled[row].adapter is not None:
                windows[row] = log_mels[row]

    by_adapter: dict[str | None, list[int]] = {}
    for row, option in enumerate(settled):
        by_adapter.setdefault(option.adapter, []).append(row)
    hypotheses: dict[int, Hypothesis] = {}
    for adapter, rows in by_adapter.items():
        found_texts = transcribe(
            adapter,
            [windows[row] for row in rows],
            [settled[row] for row in rows],
            encoded if rows == unnamed and adapter is None else None,
        )
        hypotheses.update(zip(rows, found_texts, strict=True))
    return [replace(hypotheses[row], language_prob=probs[row]) for row in range(len(options))]


def _without_served(option: DecodingOptions) -> DecodingOptions:
    return replace(option, adapter=None) if option.adapter == SERVED_ADAPTER else option


def _settled(
    option: DecodingOptions, language: str, probability: float
) -> tuple[DecodingOptions, float | None]:
    """Return options with a language, and how probable it is; another than the adapter's is the base's."""
    own = option.expected_language
    if own is None or language == own:
        return replace(option, language=language), probability
    if probability >= SURE_PROB:
        return replace(option, language=language, adapter=None), probability
    return replace(option, language=own), 1 - probability
