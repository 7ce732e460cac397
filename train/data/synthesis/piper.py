"""Piper's voice `joe`, a VITS network of an American man whose recordings are in the public domain (CC0).

It takes a tenth of Kokoro's time. It knows only English phonemes: retroflex consonants become alveolar, and
aspiration becomes an h after the consonant, as in a foreign accent.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from serve.audio.samples import Samples
from train.data.synthesis.phonemes import pronounce
from train.data.synthesis.voice_models import PIPER_JOE, fetch_model, once, open_network

_ENGLISH = {"ʧ": "tʃ", "ʤ": "dʒ", "ʦ": "ts", "ʣ": "dz", "ʈ": "t", "ɖ": "d", "ɳ": "n", "ɭ": "l", "ɽ": "ɹ"}
_ENGLISH |= {"ʰ": "h", "ʋ": "v"}
_START, _BETWEEN, _END = "^", "_", "$"


def say(sentence: str, speed: float, liveliness: float, language: str) -> tuple[Samples, int] | None:
    """Return samples (n_samples,) and their rate in Hz, or None where the voice does not know a phoneme.

    The network draws random noise, so the same sentence sounds a little different each time.

    Raises:
        DataError: The model cannot be fetched.
        FileNotFoundError: espeak-ng is not installed.
    """
    return _load().speak(_in_english(pronounce(sentence, language)), speed, liveliness)


def unknown_sounds(sounds: str) -> set[str]:
    """Return the phonemes that the voice does not know."""
    return _load().unknown(_in_english(sounds))


def _in_english(sounds: str) -> str:
    for sign, english in _ENGLISH.items():
        sounds = sounds.replace(sign, english)
    return sounds


class _Piper:
    """The loaded voice. Thread-safe; each call runs on one thread."""

    def __init__(self, directory: Path) -> None:
        self._session = open_network(directory / "model.onnx")
        config = json.loads((directory / "model.json").read_text("utf-8"))
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._sample_rate = int(config["audio"]["sample_rate"])
        self._noise, self._jitter = config["inference"]["noise_scale"], config["inference"]["noise_w"]

    def unknown(self, sounds: str) -> set[str]:
        return set(sounds) - self._ids.keys()

    def speak(self, sounds: str, speed: float, liveliness: float) -> tuple[Samples, int] | None:
        """Return samples (n_samples,) and their rate in Hz, or None where a phoneme is unknown."""
        if not sounds or self.unknown(sounds):
            return None
        tokens = [*self._ids[_START], *self._ids[_BETWEEN]]
        for sign in sounds:
            tokens += [*self._ids[sign], *self._ids[_BETWEEN]]
        tokens += self._ids[_END]
        scales = [self._noise, 1 / speed, self._jitter * (0.5 + liveliness)]
        (samples,) = self._session.run(
            None,
            {
                "input": np.array([tokens], np.int64),
                "input_lengths": np.array([len(tokens)], np.int64),
                "scales": np.array(scales, np.float32),
            },
        )
        return np.asarray(samples, dtype=np.float32).reshape(-1), self._sample_rate


@once
def _load() -> _Piper:
    return _Piper(fetch_model(PIPER_JOE))
