"""Make harder variants of test clips (telephone, rooms, pitch, noise), and clips without speech.

Tests must not repeat training's own distortions: the filters are ffmpeg's, and neither the living room nor
the hall occurs in `train.examples.augment`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import soundfile

from serve.audio.samples import SAMPLE_RATE
from serve.config.progress import progress_bar
from train.errors import DataError

_ROOM_M = (5.2, 4.1, 2.7)
_ROOM_DECAY_S = 0.45
_ROOM_DISTANCE_M = 1.5
_NOISE_SNR_DB = 15.0
_PITCHES = (0.87, 1.15)  # about two and a half semitones down and up, tempo unchanged


def write_condition(manifest: Path, condition: str) -> Path:
    """Write `STEM-CONDITION.jsonl` beside a manifest, and changed clips beside its clips; return its path.

    Args:
        manifest: JSONL with `audio` paths relative to its directory.
        condition: A key of `CONDITIONS`.

    Raises:
        DataError: ffmpeg is missing, or fails on a clip.
    """
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    changed = []
    with progress_bar(f"{manifest.stem}, {condition}", len(rows), "clips") as advance:
        for row in rows:
            clip = Path(row["audio"])
            audio = clip.with_name(f"{clip.stem}-{condition}.flac")
            if not (manifest.parent / audio).is_file():
                CONDITIONS[condition](manifest.parent / clip, manifest.parent / audio)
            changed.append({**row, "audio": str(audio), "duration_s": None})
            advance()
    return _write_rows(manifest.with_name(f"{manifest.stem}-{condition}.jsonl"), changed)


def write_no_speech(output_dir: Path, count: int) -> Path:
    """Write `test-no-speech.jsonl` with `count` clips of silence, noise, tones and music; return its path.

    Raises:
        DataError: ffmpeg is missing, or fails on a clip.
    """
    rng = random.Random("no speech")
    rows = []
    with progress_bar("test-no-speech", count, "clips") as advance:
        for number in range(count):
            kind = list(_NO_SPEECH)[number % len(_NO_SPEECH)]
            audio = f"clips/no-speech-{number:03d}-{kind}.flac"
            duration_s = round(rng.uniform(1, 12), 1)
            source = _NO_SPEECH[kind](rng, duration_s)
            if not (output_dir / audio).is_file():
                _run(source.output(str(output_dir / audio), ar=SAMPLE_RATE, ac=1, t=duration_s))
            rows.append({"audio": audio, "text": "", "language": "mr", "voice": kind, "source": "no-speech"})
            advance()
    return _write_rows(output_dir / "test-no-speech.jsonl", rows)


def _telephone(clip: Path, target: Path) -> None:
    """Pass a clip through a digital telephone line: 300 to 3,400 Hz, in 8 kHz mu-law."""
    line = ffmpeg.input(str(clip)).filter("highpass", f=300).filter("lowpass", f=3400)
    coded = _run(line.output("pipe:", format="mulaw", acodec="pcm_mulaw", ar=8000, ac=1))
    heard = ffmpeg.input("pipe:", format="mulaw", ar=8000, ac=1)
    _run(heard.output(str(target), ar=SAMPLE_RATE), coded)


def _room(clip: Path, target: Path) -> None:
    """Place a clip in a living room, by the image source method (Allen and Berkley, 1979).

    The reverberation time is 0.45 s; source and microphone are at least 1.5 m apart, placed by the clip's
    name.
    """
    import pyroomacoustics

    speech, _ = soundfile.read(clip, dtype="float32")
    absorption, max_order = pyroomacoustics.inverse_sabine(_ROOM_DECAY_S, _ROOM_M)
    room = pyroomacoustics.ShoeBox(
        _ROOM_M, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=max_order
    )
    rng = random.Random(clip.stem)
    speaker, microphone = _apart(rng), _apart(rng)
    while math.dist(speaker, microphone) < _ROOM_DISTANCE_M:
        microphone = _apart(rng)
    room.add_source(speaker, signal=speech)
    room.add_microphone(microphone)
    room.simulate()
    heard = room.mic_array.signals[0]
    soundfile.write(target, heard * (0.5 / np.abs(heard).max()), SAMPLE_RATE, subtype="PCM_16")


def _apart(rng: random.Random) -> list[float]:
    """Draw a position half a metre from the walls, at the height of a mouth or a table."""
    width_m, length_m, _ = _ROOM_M
    return [rng.uniform(0.5, width_m - 0.5), rng.uniform(0.5, length_m - 0.5), rng.uniform(0.8, 1.7)]


def _hall(clip: Path, target: Path) -> None:
    """Add strong early reflections, as in a large bare hall, that decay within a third of a second."""
    delays_ms, decays = "23|41|67|97|139|211", "0.5|0.42|0.35|0.28|0.2|0.12"
    room = ffmpeg.input(str(clip)).filter("apad", pad_dur=0.3).filter("aecho", 0.8, 0.7, delays_ms, decays)
    _run(room.output(str(target), ar=SAMPLE_RATE))


def _pitch(clip: Path, target: Path) -> None:
    """Shift pitch and formants down or up, by the clip's name; keep the tempo."""
    factor = random.Random(clip.stem).choice(_PITCHES)
    moved = ffmpeg.input(str(clip)).filter("asetrate", round(SAMPLE_RATE * factor))
    _run(moved.filter("atempo", 1 / factor).output(str(target), ar=SAMPLE_RATE))


def _noise(clip: Path, target: Path) -> None:
    """Add pink noise 15 dB below the speech."""
    speech, _ = soundfile.read(clip, dtype="float32")
    seed = random.Random(clip.stem).randrange(2**31)
    hiss = ffmpeg.input(f"anoisesrc=color=pink:sample_rate={SAMPLE_RATE}:seed={seed}", format="lavfi")
    hiss = hiss.output("pipe:", format="f32le", t=len(speech) / SAMPLE_RATE + 0.1)
    noise = np.frombuffer(_run(hiss), np.float32)[: len(speech)]
    gain = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-_NOISE_SNR_DB / 20)
    noisy = speech + gain * noise
    soundfile.write(target, noisy / max(1.0, float(np.abs(noisy).max())), SAMPLE_RATE, subtype="PCM_16")


CONDITIONS: dict[str, Callable[[Path, Path], None]] = {
    "telephone": _telephone,
    "room": _room,
    "hall": _hall,
    "pitch": _pitch,
    "noise": _noise,
}


def _generated(graph: str) -> Any:
    return ffmpeg.input(graph, format="lavfi")


def _silence(rng: random.Random, duration_s: float) -> Any:
    return _generated(f"anullsrc=sample_rate={SAMPLE_RATE}:channel_layout=mono")


def _hiss(rng: random.Random, duration_s: float) -> Any:
    colour, level = rng.choice(["white", "white", "pink", "brown"]), rng.uniform(0.003, 0.5)
    return _generated(f"anoisesrc=color={colour}:amplitude={level:.4f}:seed={rng.randrange(2**31)}")


def _tone(rng: random.Random, duration_s: float) -> Any:
    """A dial or hold tone of 350, 425 or 1,000 Hz, steady or half a second on and off."""
    gate = rng.choice(["1", "lt(mod(t,1),0.5)"])
    return _generated(
        f"aevalsrc='{rng.uniform(0.05, 0.6):.3f}*{gate}*sin(2*PI*{rng.choice([350, 425, 1000])}*t)'"
    )


def _music(rng: random.Random, duration_s: float) -> Any:
    """Arpeggios in a minor key: decaying notes with overtones, over a bass."""
    beat_s, key_hz = rng.uniform(0.18, 0.5), rng.uniform(110, 220)
    voices = []
    for voice in range(3):
        steps = [rng.choice([0, 3, 5, 7, 8, 10, 12, 15]) for _ in range(4)]
        place = f"mod(floor(t/{beat_s:.3f})+{voice},4)"
        semitones = "+".join(f"{step}*eq({place},{index})" for index, step in enumerate(steps))
        note_hz = f"{key_hz * (1, 2, 4)[voice]:.2f}*pow(2,({semitones})/12)"
        struck = f"exp(-mod(t,{beat_s:.3f})*{rng.uniform(2, 8):.2f})"
        tone = f"(sin(2*PI*{note_hz}*t)+0.5*sin(4*PI*{note_hz}*t)+0.25*sin(6*PI*{note_hz}*t))"
        voices.append(f"0.12*{struck}*{tone}")
    return _generated(f"aevalsrc='{'+'.join(voices)}':s={SAMPLE_RATE}")


_NO_SPEECH = {"silence": _silence, "noise": _hiss, "tone": _tone, "music": _music}


def _run(stream: Any, given: bytes | None = None) -> bytes:
    try:
        written, _ = stream.run(input=given, capture_stdout=True, capture_stderr=True, overwrite_output=True)
    except FileNotFoundError as error:
        raise DataError("ffmpeg is not installed: run `make system-deps` to install it") from error
    except ffmpeg.Error as error:
        raise DataError(f"ffmpeg could not make a test clip: {error.stderr.decode()[-300:]}") from error
    return bytes(written)


def _write_rows(target: Path, rows: list[dict[str, Any]]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target.write_text("".join(lines), encoding="utf-8")
    return target
