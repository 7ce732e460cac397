"""What an adapter writes for a recording that comes with shrota: noted at its export, compared at its start.

Hashes tell that files are as they were exported, but not that base model, adapter and runtime make sense
together. A text tells that: other quantisations change a letter or two, and damage leaves none in place.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from serve.audio.samples import Samples
from serve.errors import StartupError
from serve.options import TranscriptionOptions
from serve.pipeline import Decoder, Pipeline
from serve.transcript.events import End

KNOWN_SOUND = Path(__file__).with_name("known_sound.npy")
"""Four words of Marathi, 16-bit samples at 16 kHz: short and undecoded, as each start waits for them."""

LANGUAGE = "mr"
LEAST_LIKENESS = 0.4
"""Share of characters that two texts have in common, in order. Of 2,000 pairs of unrelated Marathi sentences
97 % lie below, even with their spaces counted."""


def text_of_known_sound(pipeline: Pipeline, decoder: Decoder | None = None) -> str | None:
    """Return the text; None where the model knows neither the language of its adapter nor Marathi."""
    language = pipeline.facts.language or LANGUAGE
    if language not in pipeline.engine.languages:
        return None
    samples: Samples = np.load(KNOWN_SOUND, allow_pickle=False).astype(np.float32) / 2**15
    *_, end = pipeline.transcribe(samples, TranscriptionOptions(language=language), decoder)
    assert isinstance(end, End), "a pipeline ends with its transcript"
    return end.transcript.text


def warm_up(pipeline: Pipeline, decoder: Decoder) -> None:
    """Decode the known recording where its text is noted, else noise: a first request then finds all loaded.

    Raises:
        StartupError: The text differs wildly from the manifest's.
    """
    noted = pipeline.facts.known_text
    if noted is None or not check_known_sound(pipeline, noted, decoder):
        pipeline.warm_up(decoder)


def check_known_sound(pipeline: Pipeline, noted: str, decoder: Decoder | None = None) -> bool:
    """Compare the text with what the manifest notes; tell whether the model knows its language.

    Raises:
        StartupError: It differs wildly.
    """
    text = text_of_known_sound(pipeline, decoder)
    if text is None:
        return False
    if likeness(text, noted) < LEAST_LIKENESS:
        raise StartupError(
            "the model writes something else for a known recording than when its adapter was exported: files"
            " of the adapter or of the base model are damaged, or do not belong together; fetch them again"
        )
    return True


def likeness(text: str, other: str) -> float:
    """Return from 0 to 1 how much two texts have in common besides spaces; 1 for two empty ones."""
    return SequenceMatcher(None, text.replace(" ", ""), other.replace(" ", ""), autojunk=False).ratio()
