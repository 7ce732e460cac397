"""Which transcripts are trained on, and why others are not."""

from __future__ import annotations

import json

import msgspec
import pytest

from serve.config.command_line import run_command
from serve.transcribe.batch.rows import encode_lines
from train.data.filters import Reason
from train.data.manifest import read_manifest
from train.errors import DataError
from train.pseudo_labels.__main__ import command
from train.pseudo_labels.rows import Row, read_rows
from train.pseudo_labels.selection import Criteria, select


def segment(text, start=0.0, end=2.0, **changes):
    said = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "temperature": 0.0, "compression_ratio": 1.0}
    return {"id": 0, "start": start, "end": end, "text": text, "language": "mr", **said, **changes}


def rows(*segments, path="/sound/1.wav", duration_s=20.0):
    text = " ".join(each["text"] for each in segments)
    row = {"path": path, "duration_s": duration_s, "language": "mr", "text": text, "segments": list(segments)}
    return {path: msgspec.convert(row, Row)}


def reasons(first, second=None, **criteria):
    return [drop.reason for drop in select(first, second, Criteria(**criteria), "mr").log.dropped]


def test_a_segment_that_is_believed_becomes_a_row_with_its_part_of_the_recording():
    (row,) = select(rows(segment("पाऊस आला", 3.0, 5.0)), None, Criteria(), "mr").kept
    assert (row["audio"], row["text"], row["language"]) == ("/sound/1.wav", "पाऊस आला", "mr")
    assert (row["start_s"], row["end_s"]) == (2.8, 5.2)


def test_a_clip_stays_within_its_recording():
    (row,) = select(rows(segment("पाऊस आला", 0.1, 2.0), duration_s=2.1), None, Criteria(), "mr").kept
    assert (row["start_s"], row["end_s"]) == (0.0, 2.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"avg_logprob": -0.5}, Reason.UNSURE),
        ({"no_speech_prob": 0.9}, Reason.NO_SPEECH),
        ({"compression_ratio": 2.5}, Reason.REPETITIVE),
        ({"end": 0.5}, Reason.TOO_SHORT),
        ({"end": 31.0}, Reason.TOO_LONG),
        ({"text": " "}, Reason.EMPTY_TEXT),
        ({"text": "hello there"}, Reason.WRONG_SCRIPT),
    ],
)
def test_what_is_not_believed_is_left_out_with_its_reason(changes, reason):
    found = rows(segment(**{"text": "पाऊस आला", **changes}), duration_s=60.0)
    assert reasons(found) == [reason]


def test_two_outputs_must_agree():
    first = rows(segment("पाऊस आला"), segment("ती घरी गेली", 3.0, 5.0))
    second = rows(segment("पाऊस आला"), segment("तो दारी गेला", 3.0, 5.0))
    assert reasons(first, second) == [Reason.DISAGREEMENT]
    assert reasons(first, second, max_cer=0.9) == []
    assert reasons(first, rows(segment("पाऊस आला"), path="/sound/2.wav")) == [Reason.NOT_TWICE] * 2


def test_outputs_that_are_cut_elsewhere_agree_if_their_texts_do():
    first = rows(segment("पाऊस आला ती घरी गेली", 0.0, 5.0), segment("आज सुट्टी आहे", 6.0, 8.0))
    second = rows(
        segment("पाऊस आला", 0.0, 2.0), segment("ती घरी गेली", 2.5, 5.1), segment("आज सुट्टी आहे", 6.1, 8.0)
    )
    assert reasons(first, second) == []


def test_a_segment_of_one_channel_is_left_out_as_its_clip_would_hold_them_all():
    assert reasons(rows(segment("पाऊस आला", channel=1))) == [Reason.ONE_CHANNEL]


def test_recordings_that_are_elsewhere_are_refused(tmp_path):
    (tmp_path / "heard.jsonl").write_bytes(
        encode_lines(rows(segment("पाऊस आला"), path="s3://calls/1.wav").values())
    )
    with pytest.raises(DataError, match=r"heard\.jsonl:1 names a recording .* s3://calls/1\.wav"):
        read_rows(tmp_path / "heard.jsonl")


def test_sounds_like_punctuation_are_no_disagreement():
    assert reasons(rows(segment("पाऊस आला.")), rows(segment("पाऊस आला"))) == []


def test_the_command_writes_a_manifest_that_training_reads_and_counts_what_is_left_out(
    wavs, tmp_path, capsys
):
    heard = [
        next(
            iter(
                rows(
                    segment(text, 0.0, 1.0, avg_logprob=logprob), path=str(wavs / name), duration_s=1.2
                ).values()
            )
        )
        for name, text, logprob in [("2.wav", "पाऊस आला", -0.1), ("3.wav", "ती घरी गेली", -2.0)]
    ]
    (tmp_path / "results").mkdir()
    for number, row in enumerate(heard):
        (tmp_path / "results" / f"{number}.jsonl").write_bytes(encode_lines([row]))
    target, counts = tmp_path / "pseudo.jsonl", tmp_path / "counts.json"
    words = [str(tmp_path), str(tmp_path / "results"), "--output", str(target), "--json", str(counts)]
    assert run_command(command, words) == 0
    (clip,) = read_manifest(target)
    assert (clip.path, clip.text, clip.language) == (wavs / "2.wav", "पाऊस आला", "mr")
    found = json.loads(counts.read_text())
    assert (found["kept"], found["segments"], found["left_out"]) == (1, 2, {"low confidence": 1})
    assert found["kept_s"] == pytest.approx(1.2) and found["seconds"] == pytest.approx(2.4)
    assert "1 of 2 segments, 1 of 2 s" in " ".join(capsys.readouterr().err.split())


def test_a_held_out_sentence_is_not_trained_on(wavs, tmp_path):
    heard = tmp_path / "heard.jsonl"
    heard.write_bytes(encode_lines(rows(segment("पाऊस आला"), path=str(wavs / "0.wav")).values()))
    words = [str(heard), "--output", str(tmp_path / "out.jsonl")]
    assert run_command(command, [*words, "--held-out", str(wavs / "clips.jsonl")]) == 1
    assert run_command(command, words) == 0


@pytest.mark.parametrize("content", ["", "{}\n", "no\n", '{"path": "a.wav", "duration_s": 1}\n'])
def test_an_output_without_transcripts_is_refused(tmp_path, content):
    file = tmp_path / "heard.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=r"heard\.jsonl"):
        read_rows(file)


def test_three_outputs_and_wrong_bounds_are_refused(capsys):
    assert run_command(command, ["a", "b", "c", "--output", "d"]) == 1
    assert (
        run_command(command, ["a", "--output", "d", "--keep.max-no-speech", "2", "--keep.min-s", "40"]) == 1
    )
    printed = capsys.readouterr().err
    assert "one output or two" in printed and "max-no-speech" in printed and "min-s" in printed


def test_a_language_may_be_written_in_full_and_must_be_one_of_whisper(wavs, tmp_path, capsys):
    heard, target = tmp_path / "heard.jsonl", tmp_path / "out.jsonl"
    said = segment("पाऊस आला", language="")
    (row,) = rows(said, path=str(wavs / "0.wav")).values()
    heard.write_bytes(encode_lines([msgspec.structs.replace(row, language=None)]))
    words = [str(heard), "--output", str(target), "--json", str(tmp_path / "new" / "counts.json")]
    assert run_command(command, [*words, "--language", "klingon"]) == 1
    assert "'klingon' is not a language of Whisper" in capsys.readouterr().err
    assert run_command(command, [*words, "--language", "Hindi"]) == 0
    assert json.loads(target.read_text("utf-8"))["language"] == "hi"
    assert json.loads((tmp_path / "new" / "counts.json").read_text("utf-8"))["kept"] == 1
