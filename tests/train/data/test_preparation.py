"""Shards of a source: what goes in, what is left out, and that interruptions leave no trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.samples import SAMPLE_RATE
from train.data.clips import load_clips
from train.data.filters import DropLog, Filters
from train.data.manifest import load_samples, read_audio
from train.data.preparation import Preparation, prepare_source
from train.data.shards import read_header, read_shards, verify_shards
from train.data.specs import parse_spec
from train.errors import DataError

ROOT = Path(__file__).parents[3]


def prepare(source, output_dir, **changes):
    return prepare_source(Preparation(spec=parse_spec(str(source)), **{"workers": 2, **changes}), output_dir)


def contents(directory):
    """Every file that a reader may look at."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".lock"}


def noise_manifest(directory, count):
    """Clips of a second of noise, which FLAC cannot make small."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        samples = rng.uniform(-0.5, 0.5, SAMPLE_RATE).astype(np.float32)
        soundfile.write(directory / f"{number}.wav", samples, SAMPLE_RATE)
        lines.append(
            json.dumps({"audio": f"{number}.wav", "text": f"वाक्य {number}"}, ensure_ascii=False) + "\n"
        )
    lines[3] = "{broken\n"
    (directory / "5.wav").write_bytes((directory / "5.wav").read_bytes()[:9_000])
    (directory / "clips.jsonl").write_text("".join(lines), encoding="utf-8")
    return directory / "clips.jsonl"


def test_a_clip_is_read_from_a_shard_by_one_seek(wavs, tmp_path):
    header = prepare(f"{wavs}/clips.jsonl", tmp_path / "shards", shard_bytes=60_000)
    clips = read_shards(tmp_path / "shards", DropLog(strict=True))
    assert header.clips == len(clips) == 8 and len(header.shards) > 1
    for number, clip in enumerate(clips):
        original, _ = soundfile.read(wavs / f"{number}.wav", dtype="float32")
        assert np.array_equal(load_samples(clip), original)
        assert clip.duration_s == len(original) / SAMPLE_RATE
        assert read_audio(clip).startswith(b"fLaC")
    assert clips[1].text == "ती घरी गेली" and clips[1].voice == "v1"


def test_a_shard_is_a_tar_of_webdataset(wavs, tmp_path):
    prepare(f"{wavs}/clips.jsonl", tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "shard-00000.tar") as tar:
        assert tar.getnames()[:4] == ["000000000.flac", "000000000.json", "000000001.flac", "000000001.json"]
        said = json.load(tar.extractfile("000000001.json"))
    assert said["text"] == "ती घरी गेली" and said["origin"] == f"{wavs}/clips.jsonl:2"


def test_mp3s_of_common_voice_are_decoded_and_resampled_once(common_voice, tmp_path):
    header = prepare(f"commonvoice:{common_voice}", tmp_path / "shards")
    clips = read_shards(tmp_path / "shards", DropLog(strict=True))
    assert header.clips == 4 and header.audio_s == pytest.approx(1.0 + 1.1 + 1.2 + 1.3, abs=0.3)
    assert {clip.voice for clip in clips} == {"speaker0", "speaker1"}
    assert len(load_samples(clips[0])) == pytest.approx(SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_a_stretch_of_a_long_recording_becomes_a_clip_of_its_own(tmp_path, wavs):
    ramp = np.linspace(0, 0.8, 2 * SAMPLE_RATE, dtype=np.float32)
    soundfile.write(wavs / "ramp.wav", ramp, SAMPLE_RATE)
    rows = [
        {"audio": "ramp.wav", "text": "पाऊस", "start_s": 0.5, "end_s": 1.25},
        {"audio": "ramp.wav", "text": "ऊन", "start_s": 1.5, "end_s": 2.5},
        {"audio": "ramp.wav", "text": "वारा", "start_s": 1.5, "end_s": 1.0},
    ]
    (wavs / "stretches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = prepare(f"{wavs}/stretches.jsonl", tmp_path / "shards")
    (clip,) = read_shards(tmp_path / "shards", DropLog())
    assert load_samples(clip)[[0, -1]] == pytest.approx([0.2, 0.5], abs=1e-3)
    assert header.dropped == {"undecodable audio": 1, "impossible times": 1}


@pytest.fixture
def bad_rows(wavs):
    """A manifest with one good row and one of each kind of bad data; returns it and the reasons by line."""
    soundfile.write(wavs / "long.flac", np.zeros(40 * 60 * SAMPLE_RATE, np.int16), SAMPLE_RATE)
    whole = (wavs / "7.wav").read_bytes()
    (wavs / "cut.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(wavs / "short.wav", np.zeros(300, np.float32), SAMPLE_RATE)
    rows = {
        json.dumps({"audio": "0.wav", "text": "पाऊस आला"}): None,
        json.dumps({"audio": "absent.wav", "text": "पाऊस"}): "missing file",
        json.dumps({"audio": "cut.wav", "text": "पाऊस"}): "undecodable audio",
        json.dumps({"audio": "long.flac", "text": "पाऊस"}): "too long",
        json.dumps({"audio": "short.wav", "text": "पाऊस"}): "too short",
        "": "empty line",
        json.dumps({"audio": "1.wav", "text": "  "}): "empty text",
        '{"audio": "1.wav", "te': "malformed row",
        json.dumps({"audio": "1.wav", "text": "paus aala"}): "wrong script",
        json.dumps({"audio": "1.wav", "text": "दार उघड!"}): "sentence is held out",
        json.dumps({"audio": "1.wav", "text": "ऊन", "voice": "asha"}): "voice is held out",
        "\udcff": "malformed row",
    }
    path = wavs / "bad.jsonl"
    path.write_bytes("".join(f"{row}\n" for row in rows).encode("utf-8", "surrogateescape"))
    held_out = wavs / "test.jsonl"
    held_out.write_text(json.dumps({"audio": "6.wav", "text": "दार उघड", "voice": "asha"}) + "\n")
    return path, [reason for reason in rows.values() if reason], held_out


def test_every_kind_of_bad_data_is_named_counted_and_passed_over(bad_rows, tmp_path, monkeypatch):
    path, reasons, held_out = bad_rows
    command = [str(path), "--output-dir", str(tmp_path / "shards"), "--held-out", str(held_out)]
    run = subprocess.run(
        [sys.executable, "-m", "train.command_line", "prepare", *command],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "250"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    header = read_header(tmp_path / "shards")
    assert header.clips == 1
    assert sorted(reason for reason, count in header.dropped.items() for _ in range(count)) == sorted(reasons)
    for line, reason in enumerate(reasons, 2):
        assert f"{path}:{line}: " in run.stderr and reason in run.stderr
    assert "1 clips, 0.00 h, 11 rows left out" in run.stderr


@pytest.mark.parametrize(
    ("line", "said"), [(2, "absent.wav does not exist"), (6, "the line is empty"), (8, "truncated")]
)
def test_the_first_bad_row_ends_a_strict_preparation(bad_rows, tmp_path, line, said):
    path, _, _ = bad_rows
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"".join(lines[0] for _ in range(line - 2)) + lines[line - 1])
    with pytest.raises(DataError, match=rf"bad\.jsonl:{line}: .*{said}"):
        prepare(path, tmp_path / "shards", strict=True)


def test_a_source_of_which_nothing_can_be_used_is_an_error_that_says_why(wavs, tmp_path):
    (wavs / "bad.jsonl").write_text('{"audio": "absent.wav", "text": "पाऊस"}\n{}\n')
    with pytest.raises(
        DataError,
        match=r"no clip of .*bad\.jsonl can be used: malformed row, in 1 of 2 rows, such as .*bad\.jsonl:2: ",
    ):
        prepare(f"{wavs}/bad.jsonl", tmp_path / "shards")


def test_a_preparation_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    manifest = noise_manifest(tmp_path / "noise", 80)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepare(manifest, whole, shard_bytes=200_000)
    command = [
        sys.executable,
        "-m",
        "train.command_line",
        "prepare",
        str(manifest),
        "--output-dir",
        str(broken),
    ]
    command += ["--workers", "1", "--shard-mb", "0.2", "--any-script"]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(broken.glob(".progress/0*.json"))) < 2:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (broken / "index.json").exists()
    n_kept = len(list(broken.glob(".progress/0*.json")))
    finished = [(broken / f"shard-{n:05d}.tar").stat().st_mtime_ns for n in range(n_kept)]
    prepare(manifest, broken, shard_bytes=200_000)
    assert [(broken / f"shard-{n:05d}.tar").stat().st_mtime_ns for n in range(n_kept)] == finished
    assert contents(broken) == contents(whole)
    assert read_header(whole).dropped == {"malformed row": 1, "undecodable audio": 1}


def test_a_finished_preparation_is_not_done_again_and_not_mixed_with_another(wavs, tmp_path):
    prepare(f"{wavs}/clips.jsonl", tmp_path / "shards")
    before = (tmp_path / "shards" / "shard-00000.tar").stat().st_mtime_ns
    prepare(f"{wavs}/clips.jsonl", tmp_path / "shards", workers=1)
    assert (tmp_path / "shards" / "shard-00000.tar").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"holds another preparation \(shard_bytes is 150000000 there\)"):
        prepare(f"{wavs}/clips.jsonl", tmp_path / "shards", shard_bytes=1)
    with (wavs / "clips.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="the source has changed"):
        prepare(f"{wavs}/clips.jsonl", tmp_path / "shards")


def test_a_damaged_or_missing_shard_is_named(wavs, tmp_path):
    shards = tmp_path / "shards"
    prepare(f"{wavs}/clips.jsonl", shards, shard_bytes=60_000)
    assert verify_shards(shards).clips == 8
    damaged = bytearray((shards / "shard-00000.tar").read_bytes())
    damaged[700] ^= 1
    (shards / "shard-00000.tar").write_bytes(damaged)
    (shards / "shard-00001.tar").unlink()
    with pytest.raises(
        DataError, match=r"shard-00000\.tar is damaged: its sha256(.|\n)*shard-00001\.tar is missing"
    ):
        verify_shards(shards)
    log = DropLog()
    assert 0 < len(read_shards(shards, log)) < 8
    assert log.counts.keys() == {"missing file"} and "index.jsonl:" in log.dropped[0].origin


def test_shards_that_were_not_finished_are_no_source(tmp_path):
    with pytest.raises(DataError, match=r"not finished: index\.json is missing"):
        read_shards(tmp_path, DropLog())


def test_training_prepares_a_source_once_and_filters_it_each_time(common_voice, tmp_path):
    def load(max_duration_s):
        log = DropLog()
        clips = load_clips(
            f"commonvoice:{common_voice}",
            "train",
            "mr",
            log=log,
            filters=Filters(language="mr", max_duration_s=max_duration_s),
            prepare_dir=tmp_path / "data",
        )
        return clips, log

    clips, log = load(30)
    assert len(clips) == 4 and not log.dropped
    (directory,) = (tmp_path / "data").iterdir()
    before = (directory / "shard-00000.tar").stat().st_mtime_ns
    clips, log = load(1.15)
    assert log.counts == {"too long": 4 - len(clips)} and 0 < len(clips) < 4
    assert (directory / "shard-00000.tar").stat().st_mtime_ns == before


def test_what_a_preparation_left_out_is_told_again_by_whoever_reads_it(bad_rows, tmp_path):
    path, _, _ = bad_rows
    prepare(path, tmp_path / "shards")
    log = DropLog()
    read_shards(tmp_path / "shards", log)
    assert log.counts["missing file"] == 1 and f"{path}:2" in {drop.origin for drop in log.dropped}
    with pytest.raises(DataError, match=r"bad\.jsonl:\d+: "):
        read_shards(tmp_path / "shards", DropLog(strict=True))
