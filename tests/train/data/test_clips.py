"""Clips of any source: each says its language and who speaks, as far as row, voice or source tell."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest

from train.data.clips import load_clips
from train.data.filters import DropLog, Filters
from train.data.preparation import Preparation, prepare_source
from train.data.specs import parse_spec
from train.errors import DataError


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


def test_shards_keep_the_language_and_who_speaks(load, manifest, tmp_path):
    for options, expected in (("", ["hi", "hi", "hi", "hi"]), ("?language=ne", ["ne", "ne", "ne", "hi"])):
        directory = tmp_path / f"shards{options[-2:]}"
        spec = parse_spec(f"{manifest}{options}")
        prepare_source(Preparation(spec=spec, language="hi"), directory)
        clips = load(f"shards:{directory}")  # for a Marathi run
        assert [clip.language for clip in clips] == expected
        assert [clip.kind for clip in clips] == ["people", "formant", "unknown", "unknown"]


def test_shards_of_common_voice_are_known_for_their_people(load, common_voice, tmp_path):
    prepare_source(Preparation(spec=parse_spec(f"commonvoice:{common_voice}")), tmp_path / "cv")
    assert {clip.kind for clip in load(f"shards:{tmp_path}/cv")} == {"people"}
    index = [json.loads(line) for line in (tmp_path / "cv" / "index.jsonl").read_text("utf-8").splitlines()]
    assert {(entry["kind"], entry["language"]) for entry in index} == {("people", "mr")}


def test_who_speaks_in_shards_is_asked_of_the_source_where_no_row_knew(load, manifest, tmp_path):
    prepare_source(Preparation(spec=parse_spec(str(manifest))), tmp_path / "shards")
    assert [clip.kind for clip in load(f"shards:{tmp_path}/shards?kind=neural")] == [
        "people",
        "formant",
        "neural",
        "neural",
    ]


def test_a_release_of_synthetic_speech_is_not_taken_for_people(load, common_voice):
    assert {clip.kind for clip in load(f"commonvoice:{common_voice}")} == {"people"}
    assert {clip.kind for clip in load(f"commonvoice:{common_voice}?kind=neural")} == {"neural"}


def test_shards_of_an_unknown_language_are_left_out_and_named(load, manifest, tmp_path):
    prepare_source(Preparation(spec=parse_spec(str(manifest))), tmp_path / "shards")
    index = tmp_path / "shards" / "index.jsonl"
    index.write_text(index.read_text("utf-8").replace('"language":"hi"', '"language":"tlh"'), "utf-8")
    with pytest.raises(DataError, match=r"index\.jsonl:4: 'tlh' is not a language of Whisper"):
        load(f"shards:{tmp_path}/shards")
    index.write_text(index.read_text("utf-8").replace('"language":"tlh"', '"language":"hi-IN"'), "utf-8")
    assert [clip.language for clip in load(f"shards:{tmp_path}/shards")] == ["mr", "mr", "mr", "hi"]


def test_recordings_of_the_hub_may_lack_a_text_where_none_is_read(parquet, tmp_path):
    (file,) = (parquet / "mr_in" / "train").iterdir()
    rows = pyarrow.parquet.read_table(file)
    place = rows.column_names.index("transcription")
    pyarrow.parquet.write_table(rows.set_column(place, "transcription", [["", "पाऊस"]]), file)
    clips = load_clips(
        f"hf:{parquet}:mr_in",
        "train",
        "mr",
        log=DropLog(strict=True),
        filters=Filters(silent=True),
        prepare_dir=tmp_path / "data",
    )
    assert [clip.text for clip in clips] == ["", "पाऊस"]
