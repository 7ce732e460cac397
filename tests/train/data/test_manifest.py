"""Manifests: what is read of them, and how a bad line is named."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import soundfile

from serve.audio.samples import SAMPLE_RATE
from train.data.filters import DropLog, Filters
from train.data.manifest import load_samples, read_manifest
from train.errors import DataError


@pytest.fixture
def ramp(tmp_path):
    """Two seconds whose value tells the time: 0 at the beginning, 0.8 at the end."""
    samples = np.linspace(0, 0.8, 2 * SAMPLE_RATE, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.wav", samples, SAMPLE_RATE)
    return tmp_path / "ramp.wav"


def manifest(directory, *rows):
    path = directory / "clips.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_a_clip_is_a_stretch_of_a_file(ramp, tmp_path):
    row = {
        "audio": "ramp.wav",
        "text": " क ख ",
        "start_s": 0.5,
        "end_s": 1.25,
        "voice": "v",
        "language": "mr",
    }
    (clip,) = read_manifest(manifest(tmp_path, row))
    assert (clip.text, clip.start_s, clip.duration_s, clip.voice) == ("क ख", 0.5, 0.75, "v")
    samples = load_samples(clip)
    assert len(samples) == 0.75 * SAMPLE_RATE
    assert samples[[0, -1]] == pytest.approx([0.2, 0.5], abs=1e-3)


def test_the_duration_is_measured_where_none_is_given(ramp, tmp_path):
    (clip,) = read_manifest(manifest(tmp_path, {"audio": str(ramp), "text": "क"}))
    assert clip.duration_s == 2.0 and len(load_samples(clip)) == 2 * SAMPLE_RATE


def test_other_formats_and_rates_are_decoded_as_in_serving(ramp, tmp_path):
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(ramp),
        "-ar",
        "44100",
        "-ac",
        "2",
        str(tmp_path / "ramp.m4a"),
    ]
    subprocess.run(command, check=True)
    (clip,) = read_manifest(manifest(tmp_path, {"audio": "ramp.m4a", "text": "क", "end_s": 2.0}))
    assert len(load_samples(clip)) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("{broken", "malformed"),
        ({"text": "क"}, "audio"),
        ({"audio": "ramp.wav"}, "text"),
        ({"audio": "absent.wav", "text": "क"}, r"absent\.wav does not exist"),
        ({"audio": "ramp.wav", "text": "क", "start_s": 1.5, "end_s": 1.0}, "start_s 1.5 does not lie before"),
        ({"audio": "ramp.wav", "text": "क", "start_s": -1}, "start_s -1.0"),
        ({"audio": "clips.jsonl", "text": "क"}, "cannot be decoded"),
        ({"audio": "ramp.wav", "text": "क", "language": "hindustani"}, "'hindustani' is not a language"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(ramp, tmp_path, row, named):
    good = {"audio": "ramp.wav", "text": "क"}
    with pytest.raises(DataError, match=rf"clips\.jsonl:3: .*{named}"):
        read_manifest(manifest(tmp_path, good, good, row))


def test_audio_that_ends_before_the_clip_is_named(ramp, tmp_path):
    (clip,) = read_manifest(manifest(tmp_path, {"audio": "ramp.wav", "text": "क", "start_s": 3, "end_s": 4}))
    with pytest.raises(DataError, match=r"clips\.jsonl:1: .*ends before 3"):
        load_samples(clip)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"])
def test_a_manifest_without_clips_is_refused(tmp_path, content):
    (tmp_path / "clips.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"clips\.jsonl (holds no clips|cannot be read)|clips\.jsonl:1: "):
        read_manifest(tmp_path / "clips.jsonl")


def test_bad_lines_are_left_out_where_the_log_takes_them(ramp, tmp_path):
    good = {"audio": "ramp.wav", "text": "क"}
    rows = [
        good,
        "",
        {"audio": "absent.wav", "text": "क"},
        "{broken",
        {**good, "text": " "},
        {**good, "end_s": 9},
    ]
    log = DropLog()
    clips = read_manifest(manifest(tmp_path, *rows), log, Filters(max_duration_s=5))
    assert len(clips) == 1
    assert [(drop.origin.rpartition(":")[2], str(drop.reason)) for drop in log.dropped] == [
        ("2", "empty line"),
        ("3", "missing file"),
        ("4", "malformed row"),
        ("5", "empty text"),
        ("6", "too long"),
    ]


def test_an_empty_text_passes_where_nothing_is_asked_of_clips(ramp, tmp_path):
    assert read_manifest(manifest(tmp_path, {"audio": "ramp.wav", "text": ""}))[0].text == ""


def test_a_recording_that_is_shorter_than_its_row_says_is_cut_off(ramp, tmp_path):
    (clip,) = read_manifest(manifest(tmp_path, {"audio": "ramp.wav", "text": "क", "duration_s": 3.0}))
    with pytest.raises(
        DataError, match=r"clips\.jsonl:1: .*cut off: it ends after 2\.00 s, the clip after 3\.0"
    ):
        load_samples(clip)


MARKS = {
    "UTF-8": "utf-8",
    "UTF-8 with a mark": "utf-8-sig",
    "UTF-16": "utf-16",
    "UTF-16, the other way": "utf-16-be",
    "UTF-32": "utf-32",
}


def as_editors_write(text: str, encoding: str, line_end: str) -> bytes:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    return (mark + text.replace("\n", line_end)).encode(encoding)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", MARKS.values(), ids=MARKS)
def test_no_mark_and_no_line_end_of_an_editor_gets_into_a_text(ramp, tmp_path, encoding, line_end):
    row = json.dumps({"audio": "ramp.wav", "text": "आज हवा आहे"}, ensure_ascii=False)
    inside = json.dumps({"audio": "ramp.wav", "text": "\ufeffमला\r\nचहा\n"})
    path = tmp_path / "clips.jsonl"
    path.write_bytes(as_editors_write(f"{row}\n\ufeff{row}\n{inside}", encoding, line_end))
    clips = read_manifest(path)
    assert [clip.text for clip in clips] == ["आज हवा आहे", "आज हवा आहे", "मला चहा"]
    assert [clip.origin for clip in clips] == [f"{path}:{number}" for number in (1, 2, 3)]


def test_a_manifest_that_holds_nothing_says_so_and_the_commonest_reason_otherwise(ramp, tmp_path):
    with pytest.raises(DataError, match=r"clips\.jsonl holds no clips to use: it holds no rows"):
        read_manifest(manifest(tmp_path), DropLog())
    rows = [{"audio": "gone.wav", "text": "क"}, {"audio": "gone.wav", "text": "ख"}, "{"]
    reason = r"to use: missing file, in 2 of 3 rows, such as .*clips\.jsonl:1: .*gone\.wav does not exist"
    with pytest.raises(DataError, match=reason):
        read_manifest(manifest(tmp_path, *rows), DropLog())


def test_a_line_separator_within_a_text_ends_no_line(ramp, tmp_path):
    row = json.dumps({"audio": "ramp.wav", "text": "क\u2028ख"}, ensure_ascii=False)
    (clip,) = read_manifest(manifest(tmp_path, row))
    assert clip.text == "क\u2028ख"


def test_a_language_is_known_by_its_code_with_a_country_and_by_its_name(ramp, tmp_path):
    names = [None, "", "mr", "mr-IN", "Hindi", "tlh"]
    rows = [{"audio": "ramp.wav", "text": "क", "language": name} for name in names]
    log = DropLog()
    clips = read_manifest(manifest(tmp_path, *rows), log)
    assert [clip.language for clip in clips] == [None, None, "mr", "mr", "hi"]
    assert [(drop.origin.rpartition(":")[2], str(drop.reason)) for drop in log.dropped] == [
        ("6", "malformed row")
    ]
