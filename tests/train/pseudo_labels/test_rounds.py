"""Rounds of self-training with a tiny model: what a second start does again, and what it refuses."""

from __future__ import annotations

import json

import pytest

from serve.config.command_line import run_command
from serve.transcribe.batch.rows import encode_lines
from train.config import dump_config
from train.errors import DataError
from train.pseudo_labels.hearing import transcribe_into
from train.pseudo_labels.rounds import command
from train.pseudo_labels.rows import Row, read_rows


@pytest.fixture
def begun(tiny_config, tiny_artifact_dir, wavs, tmp_path):
    """Words of a command whose first round has heard its recordings, so that it goes on with choosing."""
    file = tmp_path / "train.yaml"
    file.write_text(dump_config(tiny_config(max_steps=2)), "utf-8")
    heard = tmp_path / "rounds" / "round-1"
    heard.mkdir(parents=True)
    said = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "temperature": 0.0, "compression_ratio": 1.0}
    segment = {"id": 0, "start": 0.0, "end": 1.2, "text": "क ख ग", "language": "mr", **said}
    row = {"path": str(wavs / "2.wav"), "duration_s": 1.2, "language": "mr", "text": "क ख ग"}
    line = encode_lines([Row(**row, segments=[segment])])
    for name in ("heard.jsonl", "heard-in-noise.jsonl"):
        (heard / name).write_bytes(line)
    words = [str(wavs / "2.wav"), "--config", str(file), "--model-dir", str(tiny_artifact_dir)]
    return [*words, "--people", str(wavs / "clips.jsonl"), "--output-dir", str(tmp_path / "rounds")]


def test_the_same_command_goes_on_and_another_is_refused(begun, wavs, tmp_path, capfd):
    assert run_command(command, begun) == 0
    first = (tmp_path / "rounds" / "selftrain.json").read_text("utf-8")
    assert json.loads(first)["rounds"][0]["selection"]["kept"] == 1
    assert run_command(command, begun) == 0
    assert (tmp_path / "rounds" / "selftrain.json").read_text("utf-8") == first
    capfd.readouterr()
    assert run_command(command, [str(wavs / "3.wav"), *begun, "--keep.max-cer", "0.2", "--weight", "2"]) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "recordings, --weight, --keep: not as when the rounds in" in said
    assert "name another --output-dir" in said


def test_criteria_may_be_loosened_until_a_round_is_finished(begun, wavs, tmp_path, capfd):
    assert run_command(command, [*begun, "--keep.min-logprob", "-0.05"]) == 1
    assert "loosen --keep.min-logprob" in capfd.readouterr().err
    assert run_command(command, begun) == 0
    with (wavs / "clips.jsonl").open("a", encoding="utf-8") as people:
        people.write('{"audio": "0.wav", "text": "पुन्हा एकदा"}\n')
    capfd.readouterr()
    assert run_command(command, [*begun, "--rounds", "2"]) == 1
    assert "--people or --also: not as when" in " ".join(capfd.readouterr().err.split())


def test_a_language_that_whisper_lacks_is_refused(begun, capfd):
    assert run_command(command, [*begun, "--language", "klingon"]) == 1
    assert "'klingon' is not a language of Whisper" in capfd.readouterr().err


def test_recordings_that_cannot_be_decoded_are_named(tiny_artifact_dir, wavs, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    (fault,) = transcribe_into(tmp_path / "a.jsonl", tiny_artifact_dir, [broken, wavs / "0.wav"], "mr")
    assert fault.startswith(f"{broken}: ")
    assert list(read_rows(tmp_path / "a.jsonl")) == [str(wavs / "0.wav")]
    with pytest.raises(DataError, match=r"no recording can be decoded, such as .*broken\.wav"):
        transcribe_into(tmp_path / "b.jsonl", tiny_artifact_dir, [broken], "mr")
    assert not (tmp_path / "b.jsonl").exists()
