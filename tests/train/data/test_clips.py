"""Clips of any source: each says its language and who speaks, as far as row, voice or source tell."""

from __future__ import annotations

import json

import pytest

from train.data.clips import load_clips
from train.data.filters import DropLog, Filters


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a source for a Marathi run and prepares it in `tmp_path / "data"`."""

    def load(source, purpose="train"):
        return load_clips(
            source,
            purpose,
            "mr",
            log=DropLog(strict=True),
            filters=Filters(language="mr"),
            prepare_dir=tmp_path / "data",
        )

    return load


@pytest.fixture
def manifest(wavs):
    """A manifest whose four rows say who speaks, let the voice tell, say nothing, and name their language."""
    rows = [
        {"audio": "0.wav", "text": "पाऊस", "kind": "people", "voice": "espeak-m3"},
        {"audio": "1.wav", "text": "दार", "voice": "espeak-m3"},
        {"audio": "2.wav", "text": "चहा"},
        {"audio": "3.wav", "text": "पानी", "language": "hi", "kind": "sentence"},
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (wavs / "kinds.jsonl").write_text("".join(lines), encoding="utf-8")
    return wavs / "kinds.jsonl"


def test_a_source_says_who_speaks_only_where_row_and_voice_do_not(load, manifest):
    assert [clip.kind for clip in load(str(manifest))] == ["people", "formant", "unknown", "unknown"]
    named = load(f"{manifest}?kind=people")
    assert [clip.kind for clip in named] == ["people", "formant", "people", "people"]


def test_every_clip_has_a_language_its_own_before_the_sources_before_the_runs(load, manifest):
    assert [clip.language for clip in load(str(manifest))] == ["mr", "mr", "mr", "hi"]
    assert [clip.language for clip in load(f"{manifest}?language=ne")] == ["ne", "ne", "ne", "hi"]


def test_shards_remember_who_speaks_and_are_not_made_again_for_another_answer(load, wavs, tmp_path):
    for number in range(8):
        (wavs / f"{number}.txt").write_text("पाऊस आला", encoding="utf-8")
    assert {clip.kind for clip in load(f"folder:{wavs}?kind=people")} == {"people"}
    assert {clip.kind for clip in load(f"folder:{wavs}")} == {"unknown"}
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_common_voice_is_known_for_its_people(load, common_voice):
    assert {clip.kind for clip in load(f"commonvoice:{common_voice}")} == {"people"}
