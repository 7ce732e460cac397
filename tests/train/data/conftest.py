"""A repository of the hub, made of the recordings of `wavs`."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest


@pytest.fixture
def parquet(tmp_path: Path, wavs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the hub stores it: a directory for each part, a Parquet file for each split."""
    repository = tmp_path / "repository"
    said = [json.loads(line)["text"] for line in (wavs / "clips.jsonl").read_text("utf-8").splitlines()]
    for split, numbers in {"train": (0, 1), "validation": (2,), "test": (3,)}.items():
        (repository / "mr_in" / split).mkdir(parents=True)
        audio = [{"bytes": (wavs / f"{n}.wav").read_bytes(), "path": f"{n}.wav"} for n in numbers]
        table = pyarrow.table(
            {
                "audio": audio,
                "transcription": [said[n] for n in numbers],
                "gender": [0 for _ in numbers],
                "speaker_id": [7 for _ in numbers],
            }
        )
        pyarrow.parquet.write_table(table, repository / "mr_in" / split / "0000.parquet")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return repository
