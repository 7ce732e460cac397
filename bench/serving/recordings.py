"""Clips of the corpus, and long recordings joined from them, as FLAC files that every peer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from bench.serving.setup import Setup
from serve.audio.samples import SAMPLE_RATE, Samples
from train.data.manifest import load_samples, read_manifest

SHORT_S = (2.0, 8.0)
PAUSE_S = (0.3, 2.0)
ROOM_NOISE = 5e-4
"""Standard deviation of the samples in pauses: no room is digitally silent."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A 16 kHz mono FLAC file and its transcript."""

    path: Path
    text: str
    duration_s: float
    kind: str = ""
    """Kind of a recording without speech: silence, noise, tone or music."""


def read_samples(path: Path) -> Samples:
    """Return a recording of this benchmark as (n_samples,) float32 at 16 kHz."""
    samples, sample_rate = soundfile.read(path, dtype="float32")
    assert sample_rate == SAMPLE_RATE and samples.ndim == 1
    return np.asarray(samples, dtype=np.float32)


def short_clips(setup: Setup, count: int, longest_s: float = SHORT_S[1]) -> list[Recording]:
    """Return clips of 2 to 8 s, equally many of each test set, spread over all of it."""
    chosen: list[Recording] = []
    for number, manifest in enumerate(setup.manifests):
        fitting = [c for c in read_manifest(manifest) if SHORT_S[0] <= c.duration_s <= longest_s]
        share = len(range(number, count, len(setup.manifests)))
        for index in np.linspace(0, len(fitting) - 1, min(share, len(fitting)), dtype=int):
            clip = fitting[index]
            path = setup.scratch / "clips" / f"{manifest.stem}-{index:05d}.flac"
            samples = load_samples(clip)
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, SAMPLE_RATE)
            chosen.append(Recording(path=path, text=clip.text, duration_s=len(samples) / SAMPLE_RATE))
    return chosen


def no_speech_clips(manifest: Path, count: int) -> list[Recording]:
    """Return recordings without speech, equally many of each kind."""
    clips = read_manifest(manifest)
    kinds = sorted({clip.voice or "" for clip in clips})
    return [
        Recording(path=clip.path, text="", duration_s=clip.duration_s, kind=kind)
        for number, kind in enumerate(kinds)
        for clip in [c for c in clips if c.voice == kind][: len(range(number, count, len(kinds)))]
    ]


def join_clips(setup: Setup, duration_s: float) -> Recording:
    """Write clips with pauses of 0.3 to 2 s between them until they last `duration_s`, all of a test set.

    The everyday sentences are preferred where they exist: clean speech, many words.
    """
    path = setup.scratch / f"joined-{duration_s:.0f}.flac"
    manifest = next((m for m in setup.manifests if m.stem == "test-everyday"), setup.manifests[0])
    clips = read_manifest(manifest)
    rng = np.random.default_rng(0)
    words: list[str] = []
    n_samples = 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, channels=1, format="FLAC", subtype="PCM_16") as file:
        while n_samples < duration_s * SAMPLE_RATE:
            clip = clips[len(words) % len(clips)]
            pause = rng.normal(0, ROOM_NOISE, round(rng.uniform(*PAUSE_S) * SAMPLE_RATE))
            for piece in (load_samples(clip), pause.astype(np.float32)):
                file.write(piece)
                n_samples += len(piece)
            words.append(clip.text)
    return Recording(path=path, text=" ".join(words), duration_s=n_samples / SAMPLE_RATE)


def total_s(recordings: Sequence[Recording]) -> float:
    """Return the total length of recordings."""
    return sum(recording.duration_s for recording in recordings)
