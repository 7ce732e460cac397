"""Recordings of a second or two, and sources made of them: a manifest, a Common Voice release, Parquet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from serve.audio.samples import SAMPLE_RATE

SENTENCES = [
    "पाऊस आला",
    "ती घरी गेली",
    "आज सुट्टी आहे",
    "मला चहा हवा",
    "रस्ता लांब आहे",
    "तो झोपला",
    "दार उघड",
    "पाणी दे",
]


def tone(number: int, duration_s: float | None = None) -> np.ndarray:
    """A tone of its own height, 1 to 1.7 s long."""
    time_s = np.arange(round((duration_s or 1 + 0.1 * number) * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * (200 + 40 * number) * time_s)).astype(np.float32)


def write_mp3(path: Path, samples: np.ndarray) -> None:
    """A real MP3 at 32 kHz, as Common Voice has them."""
    soundfile.write(path.with_suffix(".wav"), samples, SAMPLE_RATE)
    command = ["ffmpeg", "-v", "error", "-i", str(path.with_suffix(".wav")), "-ar", "32000", str(path)]
    subprocess.run(command, check=True)
    path.with_suffix(".wav").unlink()


def write_manifest(path: Path, *rows: dict[str, object] | str) -> Path:
    """JSONL of rows, or of lines as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def wavs(tmp_path: Path) -> Path:
    """A directory with eight WAV files and `clips.jsonl`, which names them."""
    directory = tmp_path / "wavs"
    directory.mkdir()
    rows = []
    for number, sentence in enumerate(SENTENCES):
        soundfile.write(directory / f"{number}.wav", tone(number), SAMPLE_RATE)
        rows.append({"audio": f"{number}.wav", "text": sentence, "voice": f"v{number % 3}"})
    write_manifest(directory / "clips.jsonl", *rows)
    return directory


@pytest.fixture
def common_voice(tmp_path: Path) -> Path:
    """A release of six real MP3s: two in each of train, dev and test."""
    release = tmp_path / "cv-corpus-17.0" / "mr"
    (release / "clips").mkdir(parents=True)
    for place, split in enumerate(("train", "dev", "test")):
        lines = ["client_id\tpath\tsentence\tlocale"]
        for number in (2 * place, 2 * place + 1):
            write_mp3(release / "clips" / f"cv_{number}.mp3", tone(number))
            lines.append(f"speaker{place}\tcv_{number}.mp3\t{SENTENCES[number]}\tmr")
        (release / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return release


@pytest.fixture
def parquet(tmp_path: Path, wavs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the hub stores it: a directory for each part, a Parquet file for each split."""
    repository = tmp_path / "repository"
    for split, numbers in {"train": (0, 1), "validation": (2,), "test": (3,)}.items():
        (repository / "mr_in" / split).mkdir(parents=True)
        audio = [{"bytes": (wavs / f"{n}.wav").read_bytes(), "path": f"{n}.wav"} for n in numbers]
        table = pyarrow.table(
            {
                "audio": audio,
                "transcription": [SENTENCES[n] for n in numbers],
                "gender": [0 for _ in numbers],
                "speaker_id": [7 for _ in numbers],
            }
        )
        pyarrow.parquet.write_table(table, repository / "mr_in" / split / "0000.parquet")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return repository
