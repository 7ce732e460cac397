"""Transcribe recordings as they are, or with noise, and write the rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import Samples
from serve.config.progress import progress_bar
from serve.errors import AudioError
from serve.model.durable_write import write_whole
from serve.options import TranscriptionOptions
from serve.service.loading import load_pipeline
from serve.transcribe.batch.rows import encode_lines
from train.errors import DataError
from train.examples.augment import add_noise, coloured_noise
from train.pseudo_labels.rows import Row, row_of

_AT_ONCE = 16
_PINK = 0.5
"""Slope of the noise: as much in every octave, like that of a room."""


def transcribe_into(
    output: Path,
    model_dir: Path,
    recordings: Sequence[Path],
    language: str,
    noise_db: float | None = None,
    n_threads: int = 0,
) -> list[str]:
    """Write a row for each recording that can be decoded; the file appears once it is whole.

    Returns a sentence for each of the others.

    Args:
        noise_db: Speech over the noise that is added, in decibels; None adds none.
        n_threads: CPU threads; 0 takes all cores.

    Raises:
        DataError: No recording can be decoded.
        StartupError: The model cannot be loaded.
    """
    pipeline = load_pipeline(model_dir, n_threads=n_threads or os.cpu_count() or 1)
    title = "transcribing" if noise_db is None else f"transcribing, noise at {noise_db:g} dB"
    rows: list[Row] = []
    faults: list[str] = []
    try:
        with progress_bar(title, len(recordings), "recordings") as advance:
            for first in range(0, len(recordings), _AT_ONCE):
                heard: dict[Path, Samples] = {}
                for number, path in enumerate(recordings[first : first + _AT_ONCE], first):
                    try:
                        samples = decode_audio(path.read_bytes(), AudioLimits())
                    except (AudioError, OSError) as error:
                        faults.append(f"{path}: {getattr(error, 'strerror', None) or error}")
                        continue
                    heard[path] = samples if noise_db is None else noisy(samples, noise_db, seed=number)
                transcripts = pipeline.transcribe_many(
                    list(heard.values()), TranscriptionOptions(language=language)
                )
                rows += [row_of(path, each) for path, each in zip(heard, transcripts, strict=True)]
                advance(len(recordings[first : first + _AT_ONCE]))
    finally:
        pipeline.engine.close()
    if not rows:
        raise DataError(f"no recording can be decoded, such as {faults[0]}")
    write_whole(output, encode_lines(rows))
    return faults


def noisy(samples: Samples, noise_db: float, seed: int) -> Samples:
    """Return samples with pink noise, the same for the same seed."""
    noise = coloured_noise(len(samples), _PINK, np.random.default_rng(seed))
    return np.clip(add_noise(samples, noise, noise_db), -1, 1)
