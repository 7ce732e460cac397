"""Kokoro-82M, a neural synthesiser of 54 voices and any mixture of them: phonemes -> samples at 24 kHz.

It knows no Marathi. espeak-ng says which sounds a sentence has, and Kokoro's voices, four of them Hindi, say
the sounds: an English voice gives an English accent. The model is Apache-2.0 and comes from two package
registries, checked by SHA-256; where the Hugging Face hub answers, `hexgrad/Kokoro-82M` is its home.
Knows no manifests.
"""

from __future__ import annotations

import functools
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from serve.audio.samples import Samples
from train.data.synthesis.voice_models import KOKORO, fetch_model

if TYPE_CHECKING:
    import onnxruntime

SAMPLE_RATE_HZ = 24_000
MAX_PHONEMES = 509  # a voice holds one style for each number of phonemes

TEST_SPEAKERS = (
    "hf_beta",
    "hm_psi",
    "af_nova",
    "am_onyx",
    "ef_dora",
    "pm_alex",
    "bm_george",
    "jf_alpha",
    "if_sara",
    "zm_yunjian",
)
"""Speakers of the test set: never trained on, nor any mixture that holds them."""
VALID_SPEAKERS = ("bf_lily", "im_nicola", "am_echo")
"""Speakers of the validation set; likewise."""
HINDI_SPEAKERS = ("hf_alpha", "hm_omega")
_OTHER_SPEAKERS = """
    af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_river af_sarah af_sky am_adam am_eric
    am_fenrir am_liam am_michael am_puck am_santa bf_alice bf_emma bf_isabella bm_daniel bm_fable bm_lewis
    em_alex em_santa ff_siwis hm_omega hf_alpha jf_gongitsune jf_nezumi jf_tebukuro jm_kumo pf_dora pm_santa
    zf_xiaobei zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunxi zm_yunxia zm_yunyang
"""
TRAIN_SPEAKERS = tuple(sorted(_OTHER_SPEAKERS.split()))

_HINDI_WEIGHT = 6  # times as often as another speaker: their vowels and stops are nearest to Marathi
_MIXED_SHARE = 0.5  # of training clips: the styles between two speakers are speakers too

_KOKORO_SOUNDS = str.maketrans({"ɟ": "ʤ", "c": "ʧ", "g": "ɡ", "ɭ": "ɽ", "ʱ": "ʰ"})
_DENTAL = {"ʧ": "ʦ", "ʤ": "ʣ"}
_FRONT = "iɪeɛj"  # before these, Marathi's affricates are palatal always
_DENTAL_SHARE = 0.4  # of the words where either is said: the script does not tell them apart


@dataclass(frozen=True)
class Blend:
    """One speaker, or two of them in parts: `af_heart`, `af_heart*0.35+hm_omega*0.65`."""

    name: str

    @property
    def parts(self) -> list[tuple[str, float]]:
        """Return the speakers and their weights, which sum to one."""
        parts = []
        for part in self.name.split("+"):
            speaker, _, weight = part.partition("*")
            parts.append((speaker, float(weight or 1)))
        return parts


def draw_blend(rng: random.Random) -> Blend:
    """Draw a voice for training: a speaker, or a mixture of two, Hindi speakers more often than others."""
    weights = [_HINDI_WEIGHT if speaker in HINDI_SPEAKERS else 1 for speaker in TRAIN_SPEAKERS]
    (first,) = rng.choices(TRAIN_SPEAKERS, weights)
    if rng.random() >= _MIXED_SHARE:
        return Blend(first)
    second = rng.choice([speaker for speaker in TRAIN_SPEAKERS if speaker != first])
    part = rng.randint(4, 16) / 20
    return Blend(f"{first}*{part:.2f}+{second}*{1 - part:.2f}")


def phonemes(sentence: str) -> str:
    """Return what is said, in the signs that Kokoro knows; the same for the same sentence always.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """
    command = ["espeak-ng", "-v", "mr", "--ipa", "-q", "--", sentence]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    words = " ".join(run.stdout.split()).replace("tʃ", "ʧ").translate(_KOKORO_SOUNDS).split(" ")
    rng = random.Random(sentence)
    return " ".join(_with_dentals(word) if rng.random() < _DENTAL_SHARE else word for word in words)


def _with_dentals(word: str) -> str:
    """Say च, ज, झ as in चांगला, not as in चित्र, wherever the next vowel allows it."""
    signs = list(word)
    for number, sign in enumerate(signs):
        after = next((s for s in signs[number + 1 :] if s not in "ʰːˈˌʧʤ"), "")
        if sign in _DENTAL and after not in (*_FRONT,):
            signs[number] = _DENTAL[sign]
    return "".join(signs)


class Kokoro:
    """The loaded model: one thread a call, and any number of threads may call."""

    def __init__(self, directory: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # clips are spoken side by side
        options.inter_op_num_threads = 1
        self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
            str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._vocabulary: dict[str, int] = json.loads((directory / "vocab.json").read_text("utf-8"))["vocab"]
        self._voices = directory / "voices"

    def speak(self, sentence: str, blend: Blend, speed: float) -> Samples | None:
        """Return samples (n_samples,) at 24 kHz, or None where it knows not every sound."""
        tokens = [self._vocabulary.get(sign, 0) for sign in phonemes(sentence)]
        if 0 in tokens or not 0 < len(tokens) <= MAX_PHONEMES:
            return None
        (samples,) = self._session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": self._style(blend, len(tokens)),
                "speed": np.array([speed], np.float32),
            },
        )
        return np.asarray(samples, dtype=np.float32).reshape(-1)

    def _style(self, blend: Blend, n_phonemes: int) -> npt.NDArray[np.float32]:
        """Return the style (1, 256) of a blend for an utterance of so many phonemes."""
        style = sum(weight * self._speaker(speaker)[n_phonemes] for speaker, weight in blend.parts)
        return np.asarray(style, dtype=np.float32)

    @functools.cache  # noqa: B019 - one model lives as long as the program
    def _speaker(self, name: str) -> npt.NDArray[np.float32]:
        return np.fromfile(self._voices / f"{name}.bin", np.float32).reshape(-1, 1, 256)


@functools.cache
def load_kokoro() -> Kokoro:
    """Load the model once, fetching it where the cache lacks it.

    Raises:
        DataError: it cannot be had, or is not what it should be.
    """
    return Kokoro(fetch_model(KOKORO))
