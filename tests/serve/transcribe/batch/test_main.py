"""The command on real clips in one process: rows, quarantine, going on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from serve.errors import ConfigError
from serve.transcribe.batch.__main__ import read_batch
from serve.transcribe.batch.rows import decode_rows

SPOILT = {"broken.flac": "undecodable_audio", "empty.wav": "empty_audio"}


def test_every_file_has_one_row_or_a_place_in_the_quarantine_and_a_copy_is_decoded_once(
    batch, corpus, tmp_path
):
    said = batch.run(corpus, tmp_path / "out", "--local", "--word-timestamps")
    clips = sorted(corpus.rglob("c*.flac"))
    assert len(clips) == 13 and "13 files have results, 2 are in quarantine, 0 have neither" in said
    batch.assert_each_once(tmp_path / "out", clips)
    assert batch.quarantined(tmp_path / "out") == SPOILT
    rows = {Path(row["path"]).name: row for row in batch.rows(tmp_path / "out")}
    for clip in clips:
        row = rows[clip.name]
        assert row["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
        assert row["n_bytes"] == clip.stat().st_size and row["language"] == "mr"
    spoken = rows["clip-0000.flac"]
    assert "राजा" in spoken["text"] and 0 < spoken["confidence"] < 1
    assert spoken["duration_s"] == 3.318 and spoken["segments"][0]["words"][0]["probability"] > 0
    assert spoken["engine"].startswith("ctranslate2 ") and len(spoken["artifact_sha256"]) == 64
    assert rows["copy.flac"] == spoken | {"path": str(corpus / "more" / "copy.flac")}
    decoded_s = sum(row["duration_s"] for name, row in rows.items() if name != "copy.flac")
    assert f" {decoded_s:.0f} s of audio" in said


def test_a_run_goes_on_where_it_was_stopped_and_takes_what_came_later(batch, corpus, tmp_path):
    output = tmp_path / "out"
    batch.run(corpus, output, "--local", "--shard-s", 8)
    clips = sorted(corpus.rglob("c*.flac"))
    shards = sorted((output / "results").iterdir())
    assert len(shards) > 3
    kept = {shard: shard.stat().st_mtime_ns for shard in shards[1:]}
    shards[0].unlink()
    (output / "results" / ".1-2.part").write_bytes(b"half a sha")
    before = batch.texts(output)
    said = batch.run(corpus, output, "--local")
    batch.assert_each_once(output, clips)
    assert before.items() <= batch.texts(output).items()
    assert {shard: shard.stat().st_mtime_ns for shard in kept} == kept  # only the missing one was done
    assert "of the files are done already" in said and not list(output.rglob(".*.part"))

    (corpus / "later.flac").write_bytes((corpus / "clip-0002.flac").read_bytes())
    said = batch.run(corpus, output, "--local")
    batch.assert_each_once(output, [*clips, corpus / "later.flac"])
    assert ": 0 s of audio" in said  # the content was known
    texts = batch.texts(output)
    assert texts[str(corpus / "later.flac")] == texts[str(corpus / "clip-0002.flac")]

    shutil.copy(corpus / "clip-0003.flac", corpus / "broken.flac")
    os.utime(corpus / "clip-0004.flac", (1, 1))
    said = batch.run(corpus, output, "--local", "--retry-quarantined")
    assert "2 recordings have changed since they were planned" in said
    assert batch.quarantined(output) == {"empty.wav": "empty_audio"}
    batch.assert_each_once(output, [*clips, corpus / "later.flac", corpus / "broken.flac"])


def test_a_recording_that_ends_the_process_is_in_quarantine_at_the_third_start(deadly, corpus, tmp_path):
    (corpus / "clip-0002.flac").rename(corpus / "deadly.flac")
    output = tmp_path / "out"
    for _ in range(2):
        child = deadly.start("--input", corpus, "--output", output, "--local")
        child.communicate()
        assert child.returncode == -signal.SIGSEGV and not deadly.rows(output)
    deadly.run(corpus, output, "--local")
    assert deadly.quarantined(output) == SPOILT | {"deadly.flac": "worker_died"}
    lines = (output / "quarantine.jsonl").read_text("utf-8").splitlines()
    (reason,) = [each["message"] for each in map(json.loads, lines) if each["error"] == "worker_died"]
    assert reason == "a worker that does nothing else dies of it each time: killed by SIGSEGV"
    deadly.assert_each_once(output, sorted(corpus.rglob("c*.flac")))
    assert not list((output / "begun").iterdir())


def test_a_name_that_is_not_utf_8_is_told_and_the_others_are_done(batch, tmp_path):
    a, odd = batch.write_clips(tmp_path / "corpus", 2)
    odd.rename(odd.with_name(os.fsdecode(b"caf\xe9.flac")))
    child = batch.start("--input", a.parent, "--output", tmp_path / "out", "--local")
    _, errors = child.communicate(timeout=600)
    assert child.returncode == 1 and "Traceback" not in errors
    assert f"error: {a.parent}/caf\\udce9.flac: its name is not UTF-8" in errors
    assert "1 files have results, 0 are in quarantine, 1 have neither" in errors
    batch.assert_each_once(tmp_path / "out", [a])


def test_parquet_holds_the_same_rows_and_an_output_takes_no_others(batch, corpus, tmp_path):
    pattern = corpus / "*.flac"
    batch.run(pattern, tmp_path / "lines", "--local", "--word-timestamps")
    batch.run(pattern, tmp_path / "table", "--local", "--word-timestamps", "--format", "parquet")
    (lines,) = (tmp_path / "lines" / "results").iterdir()
    (table,) = (tmp_path / "table" / "results").iterdir()
    assert table.name == "0000-000000.parquet"
    assert decode_rows(table.read_bytes(), "parquet") == decode_rows(lines.read_bytes(), "jsonl")
    refused = batch.refusal(pattern, tmp_path / "table", "--local", "--language", "hi", "--format", "jsonl")
    assert "was begun with format parquet, and not jsonl" in refused
    assert "was begun with options TranscriptionOptions(" in refused


def test_two_runs_do_not_write_to_one_output(batch, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert "out: another run writes here" in batch.refusal(corpus, tmp_path / "out", "--local")


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({}, "--input is missing"),
        ({"local": "true", "workers": "2"}, "--local has no workers of Ray"),
        ({"format": "csv"}, "--format: 'csv' is not one of jsonl, parquet"),
        ({"shard_s": "0"}, "--shard-s must be a number above 0"),
        ({"gpu_workers": "-1"}, "there cannot be fewer than 0 workers"),
        ({"language": "klingon"}, "'klingon' is not a language of Whisper"),
    ],
)
def test_faults_of_the_command_line_are_named(flags, fault):
    named = {"input": "in", "output": "out", **flags} if flags else {}
    with pytest.raises(ConfigError) as refused:
        read_batch(named)
    assert any(fault in each for each in refused.value.faults)
