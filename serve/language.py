"""Which language a window is in, and which one a recording is in. Knows no engine and no samples.

The base model detects languages, in windows of 30 s: an adapter that was trained on one language no longer
tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from serve.audio.features import MAX_WINDOW_S, pad_with_silence
from serve.audio.samples import FRAMES_PER_S
from serve.engine import DecodingOptions, EngineInput, Hypothesis

LANGUAGE_WINDOWS = 3
"""Windows that settle a language which nobody named: one alone may be a greeting, or too short to tell."""

SURE_PROB = 0.9
"""What the base model must give a language to be believed against the adapter's own. An adapter is made where
the base hears badly: of 50 clips of Marathi it took every one for another language, at 0.85 and less, and six
clips of English for English at 0.94 and more."""

Detect = Callable[[EngineInput], tuple[str, float]]
"""Returns the likeliest language of a window of 30 s, and its probability."""


def settle_window(window: EngineInput, detect: Detect) -> tuple[EngineInput, float]:
    """Return a window with its language named, and how probable that language is.

    The language is the adapter's own, unless the base model is sure of another: that the base model decodes.
    """
    options = window.options
    log_mel = pad_with_silence(window.log_mel, int(MAX_WINDOW_S * FRAMES_PER_S))
    whole = EngineInput(log_mel=log_mel, options=options)
    language, probability = detect(whole)
    own = options.expected_language
    if own not in (None, language):
        if probability >= SURE_PROB:
            options = replace(options, adapter=None)
        else:
            language, probability = own, 1 - probability
    options = replace(options, language=language)
    # What the base model has encoded to tell the language it need not encode again to decode.
    return replace(whole if options.adapter is None else window, options=options), probability


def settle_recording(heard: Sequence[Hypothesis]) -> tuple[str, float | None]:
    """Return the language with the highest sum of probabilities, and its mean probability."""
    probs: dict[str, list[float | None]] = {}
    for hypothesis in heard:
        probs.setdefault(hypothesis.language, []).append(hypothesis.language_prob)
    language = max(probs, key=lambda code: sum(1.0 if prob is None else prob for prob in probs[code]))
    known = [prob for prob in probs[language] if prob is not None]
    return language, sum(known) / len(known) if known else None


def with_language(decoding: DecodingOptions, language: str) -> DecodingOptions:
    """Name the language that was settled; where it is not the adapter's own, the base model hears better."""
    own = decoding.expected_language
    return replace(decoding, language=language, adapter=decoding.adapter if own in (None, language) else None)
