"""Generate audio without speech, whose transcript is empty: silence, noise, hums, chords, melodies."""

from __future__ import annotations

import numpy as np

from serve.audio.samples import SAMPLE_RATE, Samples
from train.examples.augment import coloured_noise

_HUMS_HZ = (50.0, 60.0, 400.0, 440.0, 1000.0)


def no_speech(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return (n_samples,) of silence, noise, a hum, a chord or a melody, at a random level."""
    level = float(10 ** rng.uniform(-3.5, -0.7))
    kind = rng.choice(["silence", "noise", "hum", "chord", "melody"])
    if kind == "silence":
        return np.zeros(n_samples, np.float32)
    if kind == "noise":
        return coloured_noise(n_samples, float(rng.choice([0.0, 0.5, 1.0])), rng) * level
    if kind == "melody":
        return melody(n_samples, rng) * level
    time_s = np.arange(n_samples) / SAMPLE_RATE
    tones = [float(rng.choice(_HUMS_HZ))] if kind == "hum" else 110 * 2 ** (rng.integers(0, 36, size=3) / 12)
    wave = np.sum([np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in tones], axis=0)
    beat = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.2, 3) * time_s)
    return np.asarray(wave * beat / np.abs(wave * beat).max() * level, dtype=np.float32)


def melody(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return plucked notes of one to three voices over a drum, at a steady beat, with a peak of 1."""
    wave = np.zeros(n_samples)
    beat_samples = int(rng.uniform(0.15, 0.6) * SAMPLE_RATE)
    scale = 55 * 2 ** (np.add.outer(12 * np.arange(4), [0, 2, 4, 5, 7, 9, 11]).ravel() / 12)  # Hz, A major
    n_harmonics, n_voices, decay_s = int(rng.integers(1, 8)), int(rng.integers(1, 4)), rng.uniform(0.1, 1.5)
    drum = float(rng.choice([0.0, 0.3, 1.0]))
    for start in range(0, n_samples, beat_samples):
        n_note = min(n_samples - start, 3 * beat_samples)
        time_s = np.arange(n_note) / SAMPLE_RATE
        envelope = np.exp(-time_s / decay_s) * np.minimum(1, time_s / 0.01)
        for note_hz in rng.choice(scale, n_voices):
            for harmonic in range(1, n_harmonics + 1):
                tone = np.sin(2 * np.pi * note_hz * harmonic * time_s) / harmonic
                wave[start : start + n_note] += tone * envelope
        if rng.random() < 0.5:
            wave[start : start + n_note] += drum * rng.standard_normal(n_note) * np.exp(-time_s / 0.04)
    return np.asarray(wave / max(1e-6, np.abs(wave).max()), dtype=np.float32)
