"""Synthetic voices of four engines: neural speakers, diphones of a human speaker, and formants.

A voice is a name with ranges of pitch and speed; `speak` turns a sentence into 16 kHz samples. The voices in
`TEST_VOICES` and `NEURAL_TEST_VOICES` are never used for training. All speak Marathi, and all but
festival Hindi. Knows no manifests.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
import torchaudio.functional as F

from serve.audio.samples import SAMPLE_RATE, Samples
from train.data.synthesis import kokoro, piper
from train.data.synthesis.text import SYSTEM_DEPS_HINT
from train.errors import DataError

_TIMEOUT_S = 20
_FESTIVAL_HEAP_CELLS = "500000"  # clearing the default of 10 million takes longer than speaking


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One synthetic speaker."""

    name: str
    engine: Literal["espeak", "festival", "kokoro", "piper"]
    variant: str = ""
    """espeak-ng's variant, the part after the language and `+`; or Kokoro's speaker or mixture."""
    formant_shift: float = 1.0
    """Factor on all frequencies, tempo unchanged: a longer (< 1) or shorter (> 1) vocal tract."""

    @property
    def kind(self) -> str:
        """Kind of synthesis, for manifests: `neural`, `diphone` or `formant`."""
        return _KINDS[self.engine]


_KINDS = {"espeak": "formant", "festival": "diphone", "kokoro": "neural", "piper": "neural"}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How a voice says one sentence."""

    speed: float
    """1.0 is the voice's own pace; 1.2 is faster."""
    pitch: float
    """-1 (low) to 1 (high), within the voice's natural range; neural voices ignore it."""
    liveliness: float
    """0 (flat) to 1 (sing-song)."""


def kokoro_voice(blend: str) -> Voice:
    """Return the voice of one of Kokoro's speakers, or of a mixture."""
    return Voice(name=f"kokoro-{blend}", engine="kokoro", variant=blend)


def _espeak(*variants: str) -> list[Voice]:
    return [Voice(name=f"espeak-{variant}", engine="espeak", variant=variant) for variant in variants]


def _festival(*shifts: float) -> list[Voice]:
    return [Voice(name=f"nsk-{shift:.2f}", engine="festival", formant_shift=shift) for shift in shifts]


TRAIN_VOICES = [
    *_espeak(
        "f1",
        "f2",
        "f3",
        "f5",
        "m1",
        "m2",
        "m3",
        "m4",
        "m6",
        "m7",
        "m8",
        "klatt",
        "klatt2",
        "klatt4",
        "klatt5",
    ),
    *_espeak(
        "Alex", "Alicia", "Annie", "antonio", "aunty", "belinda", "caleb", "david", "ed", "Gene", "Gene2"
    ),
    *_espeak(
        "Henrique", "Hugo", "iven", "iven3", "Jacky", "john", "kaukovalta", "Lee", "linda", "Marco", "max"
    ),
    *_espeak("miguel", "Mike", "Nguyen", "norbert", "pablo", "paul", "quincy", "robert", "sandro", "shelby"),
    *_espeak("steph", "steph3", "victor", "zac", "Diogo", "grandpa", "rob", "Denis", "boris", "anika"),
    *_festival(0.88, 0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09, 1.12),
]
TEST_VOICES = [
    *_espeak("f4", "m5", "klatt3", "Andrea", "travis", "Mario", "adam", "edward"),
    *_festival(0.84, 1.18),
]
NEURAL_TEST_VOICES = [kokoro_voice(speaker) for speaker in kokoro.TEST_SPEAKERS]
NEURAL_VALID_VOICES = [kokoro_voice(speaker) for speaker in kokoro.VALID_SPEAKERS]
PIPER_VOICES = [
    Voice(name=f"piper-joe-{shift:.2f}", engine="piper", formant_shift=shift)
    for shift in (0.88, 0.94, 1.0, 1.06, 1.12, 1.18)
]
"""One speaker at six vocal tract lengths, for training only."""


def speak(sentence: str, voice: Voice, delivery: Delivery, language: str = "mr") -> Samples | None:
    """Return the sentence as samples (n_samples,) at 16 kHz, or None where the synthesiser failed on it.

    Args:
        sentence: Bare words in Devanagari.
        voice: Who speaks.
        delivery: How it is said.
        language: Whose pronunciation, by Whisper's code: `mr` or `hi`.

    Raises:
        DataError: The synthesiser is not installed, or its model cannot be fetched.
    """
    # Shifting formants by resampling also changes the tempo, so the voice speaks at a corrected pace.
    speed = delivery.speed / voice.formant_shift
    try:
        spoken = _SAY[voice.engine](sentence, voice, delivery, speed, language)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is not installed: {SYSTEM_DEPS_HINT}") from error
    except subprocess.TimeoutExpired:
        return None
    if spoken is None:
        return None
    samples, sample_rate = spoken
    source_rate = round(sample_rate * voice.formant_shift / 100) * 100  # round rates give a short filter
    if source_rate != SAMPLE_RATE:
        samples = F.resample(torch.from_numpy(samples), source_rate, SAMPLE_RATE).numpy()
    return _trimmed(samples)


def _say_espeak(
    sentence: str, voice: Voice, delivery: Delivery, speed: float, language: str
) -> tuple[Samples, int] | None:
    command = ["espeak-ng", "-v", f"{language}+{voice.variant}", "--stdout", "-s", f"{155 * speed:.0f}"]
    command += ["-p", f"{50 + 35 * delivery.pitch:.0f}", "-m"]  # -m: the text is SSML
    spoken = f'<prosody range="{60 + 80 * delivery.liveliness:.0f}%">{sentence}</prosody>'
    run = subprocess.run([*command, "--", spoken], capture_output=True, timeout=_TIMEOUT_S, check=False)
    return _read_wav(run.stdout) if run.returncode == 0 else None


def _say_festival(
    sentence: str, voice: Voice, delivery: Delivery, speed: float, language: str
) -> tuple[Samples, int] | None:
    """Run festival once per sentence, because it crashes on some; its voice knows Marathi alone."""
    if language != "mr":
        return None
    f0_mean_hz, f0_std_hz = 120 + 25 * delivery.pitch, 8 + 14 * delivery.liveliness
    with tempfile.TemporaryDirectory() as scratch:
        wav, script = Path(scratch) / "out.wav", Path(scratch) / "say.scm"
        script.write_text(
            "(voice_marathi_NSK_diphone)\n(Parameter.set 'Int_Method 'Simple)\n"
            f"(set! int_simple_params '((f0_mean {f0_mean_hz:.0f}) (f0_std {f0_std_hz:.0f})))\n"
            f"(Parameter.set 'Duration_Stretch {1 / speed:.3f})\n"
            f'(utt.save.wave (utt.synth (Utterance Text "{sentence}")) "{wav}" \'riff)\n',
            encoding="utf-8",
        )
        command = ["festival", "--heap", _FESTIVAL_HEAP_CELLS, "-b", str(script)]
        subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        return _read_wav(wav.read_bytes()) if wav.is_file() else None


def _say_kokoro(
    sentence: str, voice: Voice, delivery: Delivery, speed: float, language: str
) -> tuple[Samples, int] | None:
    return kokoro.say(sentence, voice.variant, speed, language)


def _say_piper(
    sentence: str, voice: Voice, delivery: Delivery, speed: float, language: str
) -> tuple[Samples, int] | None:
    return piper.say(sentence, speed, delivery.liveliness, language)


_SAY: dict[str, Callable[[str, Voice, Delivery, float, str], tuple[Samples, int] | None]] = {
    "espeak": _say_espeak,
    "festival": _say_festival,
    "kokoro": _say_kokoro,
    "piper": _say_piper,
}


def _read_wav(data: bytes) -> tuple[Samples, int] | None:
    try:
        samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError:
        return None
    return samples, sample_rate


def _trimmed(samples: Samples) -> Samples | None:
    """Trim silence and normalise the level; None if nothing was spoken."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if len(loud) < SAMPLE_RATE // 4:
        return None
    pause = SAMPLE_RATE // 20  # 50 ms stay on either side
    samples = samples[max(0, loud[0] - pause) : loud[-1] + pause]
    return np.asarray(samples * (0.5 / np.abs(samples).max()), dtype=np.float32)
