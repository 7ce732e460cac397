"""Kokoro-82M, a neural synthesiser with 54 speakers and any mixture of two.

It does not know Marathi. espeak-ng gives the phonemes of a sentence, and Kokoro's speakers, four of them
Hindi, say them; an English speaker has an English accent. Model and speakers are Apache-2.0, and come from
two package registries; their home on the Hugging Face hub is `hexgrad/Kokoro-82M`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve.audio.samples import Samples
from train.data.synthesis.phonemes import pronounce
from train.data.synthesis.voice_models import KOKORO, fetch_model, once, open_network

TEST_SPEAKERS = (
    *("hf_beta", "hm_psi", "af_nova", "am_onyx", "ef_dora"),
    *("pm_alex", "bm_george", "jf_alpha", "if_sara", "zm_yunjian"),
)
"""Speakers of the test set, which occur neither in training nor in any mixture."""
VALID_SPEAKERS = ("bf_lily", "im_nicola", "am_echo")
"""Speakers of the validation set, which occur neither in training nor in any mixture."""
HINDI_SPEAKERS = ("hf_alpha", "hm_omega")
TRAIN_SPEAKERS = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_river"),
    *("af_sarah", "af_sky", "am_adam", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_puck"),
    *("am_santa", "bf_alice", "bf_emma", "bf_isabella", "bm_daniel", "bm_fable", "bm_lewis", "em_alex"),
    *("em_santa", "ff_siwis", "hf_alpha", "hm_omega", "jf_gongitsune", "jf_nezumi", "jf_tebukuro"),
    *("jm_kumo", "pf_dora", "pm_santa", "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi"),
    *("zm_yunxi", "zm_yunxia", "zm_yunyang"),
)

_SAMPLE_RATE = 24_000
_MAX_SOUNDS = 509  # a speaker has one style vector for each number of phonemes
_HINDI_WEIGHT = 6  # drawn more often than others: their vowels and stops are nearest to Marathi
_MIXED_SHARE = 0.5  # of training clips that use a mixture, which sounds like a further speaker


def parts_of(blend: str) -> list[tuple[str, float]]:
    """Parse a blend into speakers and weights: `af_heart`, `af_heart*0.35+hm_omega*0.65`."""
    parts = (part.partition("*") for part in blend.split("+"))
    return [(speaker, float(weight or 1)) for speaker, _, weight in parts]


def draw_blend(rng: random.Random) -> str:
    """Draw the voice of a training clip: a speaker, Hindi ones more often, or a mixture of two."""
    weights = [_HINDI_WEIGHT if speaker in HINDI_SPEAKERS else 1 for speaker in TRAIN_SPEAKERS]
    (first,) = rng.choices(TRAIN_SPEAKERS, weights)
    if rng.random() >= _MIXED_SHARE:
        return first
    second = rng.choice([speaker for speaker in TRAIN_SPEAKERS if speaker != first])
    share = rng.randint(4, 16) / 20
    return f"{first}*{share:.2f}+{second}*{1 - share:.2f}"


def say(sentence: str, blend: str, speed: float, language: str) -> tuple[Samples, int] | None:
    """Return samples (n_samples,) and their rate in Hz, or None where Kokoro does not know a phoneme.

    Raises:
        DataError: The model cannot be fetched.
        FileNotFoundError: espeak-ng is not installed.
    """
    model = _load()
    tokens = model.tokens(pronounce(sentence, language))
    known = [token for token in tokens if token is not None]
    if not 0 < len(known) == len(tokens) <= _MAX_SOUNDS:
        return None
    return model.speak(known, blend, speed), _SAMPLE_RATE


def unknown_sounds(sounds: str) -> set[str]:
    """Return the phonemes that Kokoro has no token for."""
    return {sign for sign, token in zip(sounds, _load().tokens(sounds), strict=True) if token is None}


class _Kokoro:
    """The loaded model. Thread-safe; each call runs on one thread."""

    def __init__(self, directory: Path) -> None:
        self._session = open_network(directory / "model.onnx")
        self._vocabulary: dict[str, int] = json.loads((directory / "vocab.json").read_text("utf-8"))["vocab"]
        self._directory = directory / "voices"
        self._speakers: dict[str, npt.NDArray[np.float32]] = {}

    def tokens(self, sounds: str) -> list[int | None]:
        """Return a token for each phoneme; None for an unknown one."""
        return [self._vocabulary.get(sign) for sign in sounds.replace("ɭ", "ɽ")]

    def speak(self, tokens: list[int], blend: str, speed: float) -> Samples:
        """Return samples (n_samples,) at 24 kHz."""
        style = sum(weight * self._speaker(name)[len(tokens)] for name, weight in parts_of(blend))
        (samples,) = self._session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": np.asarray(style, np.float32),
                "speed": np.array([speed], np.float32),
            },
        )
        return np.asarray(samples, dtype=np.float32).reshape(-1)

    def _speaker(self, name: str) -> npt.NDArray[np.float32]:
        """Return a speaker's style vectors, (510, 1, 256), by number of phonemes."""
        if name not in self._speakers:
            raw = np.fromfile(self._directory / f"{name}.bin", np.float32)
            self._speakers[name] = raw.reshape(-1, 1, 256)
        return self._speakers[name]


@once
def _load() -> _Kokoro:
    return _Kokoro(fetch_model(KOKORO))
