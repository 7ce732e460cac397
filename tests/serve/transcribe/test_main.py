"""The command that transcribes files, run as a person runs it."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve.errors import UndecodableAudio
from serve.service.loading import load_pipeline
from serve.transcribe import __main__ as main
from serve.transcribe.__main__ import MODEL_FLAGS
from serve.transcript.events import Segment, Start
from serve.transcript.formats import FORMATS

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("SHROTA_")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "serve.transcribe", *map(str, arguments)]


def run(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRON, "COLUMNS": "200", "PYTHONPATH": str(ROOT)} | environ
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tiny_artifact_dir):
    """Run the command with a random model of two layers."""
    model = ("--model-dir", tiny_artifact_dir)
    return lambda *arguments, **environ: run(*arguments, *model, **environ)


@pytest.fixture
def recordings(tmp_path, speech_wav) -> Path:
    """Three recordings in two folders, with something among them that is none."""
    folder = tmp_path / "calls"
    (folder / "day").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "day/c.wav"):
        (folder / name).write_bytes(speech_wav)
    (folder / "day" / "broken.mp3").write_bytes(b"no recording at all " * 100)
    return folder


def test_the_shipped_adapter_writes_down_what_the_sample_says():
    spoken = run(SAMPLE)
    assert spoken.returncode == 0, spoken.stderr
    assert "राजा" in spoken.stdout and len(spoken.stdout.splitlines()) == 1


def test_a_single_file_is_printed_in_the_format_asked_for(tiny, recordings):
    for name in ("json", "vtt"):
        printed = tiny(recordings / "a.wav", "--format", name)
        assert printed.returncode == 0, printed.stderr
        if name == "json":
            assert json.loads(printed.stdout)["duration_s"] == 5.0
        else:
            assert printed.stdout.startswith("WEBVTT\n\n00:00:")
        assert "real time" in printed.stderr
    assert not list(recordings.glob("a.[jv]*"))


def test_a_folder_is_transcribed_whole_and_a_second_run_does_what_is_left(tiny, recordings, tmp_path):
    output = tmp_path / "out"
    first = tiny(recordings, "--output-dir", output, "--format", "tsv", "--language", "hi")

    assert first.returncode == 1
    assert "day/broken.mp3: the body is not a recording" in first.stderr
    written = {output / "a.tsv", output / "b.tsv", output / "day" / "c.tsv"}
    assert {Path(line) for line in first.stdout.splitlines()} == written
    assert {path for path in output.rglob("*") if path.is_file()} == written
    assert all(path.read_text("utf-8").startswith("start\tend\ttext\n") for path in written)
    assert re.search(r"3 transcripts written, 1 failed: 15 s of audio at [\d.]+ x real time", first.stderr)

    (recordings / "day" / "broken.mp3").unlink()
    (output / "b.tsv").unlink()
    (output / "a.tsv").write_text("mine")
    second = tiny(recordings, "--output-dir", output, "--format", "tsv", "--language", "hi")
    assert (second.returncode, second.stdout) == (0, f"{output / 'b.tsv'}\n")
    assert "2 have transcripts already" in second.stderr
    assert (output / "a.tsv").read_text() == "mine"

    third = tiny(recordings / "a.wav", "--output-dir", output, "--format", "tsv", "--overwrite")
    assert (third.returncode, third.stdout) == (0, f"{output / 'a.tsv'}\n")
    assert (output / "a.tsv").read_text("utf-8") != "mine"


def test_many_files_at_once_give_the_text_that_each_gives_alone(tiny, recordings, tmp_path):
    for number in range(20):
        (recordings / f"{number}.wav").write_bytes((recordings / "a.wav").read_bytes())
    together = tiny(recordings, "--output-dir", tmp_path / "out")
    alone = tiny(recordings / "a.wav")
    texts = {path.read_text("utf-8") for path in (tmp_path / "out").rglob("*.txt")}
    assert len(together.stdout.splitlines()) == 23
    assert texts == {alone.stdout} and alone.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--format", "docx"],
            f"option 'format': 'docx' is not a response format; choose one of {FORMATS[0].name},",
        ),
        (["--language", "klingon"], "option 'language': 'klingon' is not a language of Whisper"),
        (["--temperature", "9"], "option 'temperature': "),
        (["--adapter", "other"], "option 'adapter': 'other' is not served here"),
        (["--n-threads", "many"], "--n-threads: 'many' is not a whole number"),
        (["--model-dir", "/nowhere"], "/nowhere: holds neither manifest.json nor a base model"),
    ],
)
def test_a_value_that_cannot_be_met_is_refused_with_the_sentence_of_the_service(
    tiny, recordings, arguments, sentence
):
    refused = (run if "--model-dir" in arguments else tiny)(recordings / "a.wav", *arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_name_that_stands_for_nothing_fails_and_the_others_are_transcribed(tiny, recordings):
    named = tiny(recordings / "a.wav", recordings / "missing.wav")
    assert (named.returncode, named.stdout) == (1, f"{recordings / 'a.txt'}\n")
    assert "missing.wav: no such file or folder" in named.stderr


def test_a_name_that_is_not_utf_8_is_a_name_like_others(tiny, recordings):
    odd = recordings / os.fsdecode(b"caf\xe9.wav")
    (recordings / "b.wav").rename(odd)
    written = tiny(recordings, PYTHONIOENCODING="utf-8:strict")
    assert "Traceback" not in written.stderr and "3 transcripts written, 1 failed" in written.stderr
    targets = {recordings / "a.txt", odd.with_suffix(".txt"), recordings / "day" / "c.txt"}
    assert {Path(line) for line in written.stdout.splitlines()} == targets
    assert all(target.read_text("utf-8") for target in targets)
    printed = tiny(odd, PYTHONIOENCODING="utf-8:strict")
    assert (printed.returncode, printed.stdout) == (0, (recordings / "a.txt").read_text("utf-8"))


@pytest.mark.parametrize("name", ["srt", "vtt", "json"])
@pytest.mark.parametrize("begins", [True, False])
def test_a_transcript_that_breaks_off_has_all_that_was_heard_and_says_so(
    tmp_path, speech_wav, monkeypatch, capfdbinary, name, begins
):
    def transcribe_half(path):
        if begins:
            yield Start(duration_s=5.0)
            figures = {"id": 0, "avg_logprob": -0.25, "no_speech_prob": 0.01, "language": "mr"}
            yield Segment(text="नमस्कार", start_s=1.0, end_s=1.5, **figures)
        raise UndecodableAudio("the recording is damaged")

    monkeypatch.setattr(
        main, "_transcriber", lambda wanted: nullcontext(SimpleNamespace(transcribe=transcribe_half))
    )
    monkeypatch.setattr("serve.config.logs.configure_logs", lambda level: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "damaged.wav").write_bytes(speech_wav)
    wanted = main.read_transcription({"files": (str(tmp_path / "damaged.wav"),), "format": name})

    assert main.transcribe(wanted) == 1
    out, err = (stream.decode() for stream in capfdbinary.readouterr())
    assert "damaged.wav: the recording is damaged\n" in err
    if begins and name != "json":
        assert "नमस्कार" in out and out.endswith("\n\n")
        assert "the recording is damaged" in out.split("नमस्कार")[1]
    else:
        assert out == ""


def test_words_that_are_no_flags_are_status_2_and_told_with_all_else_that_is_wrong():
    refused = run("a.wav", "--overwrit", "--language", "klingon", "--n-threads", "many", "--format", "docx")
    assert refused.returncode == 2
    for said in ("--overwrit is not an option; did you mean --overwrite?", "klingon", "n-threads", "docx"):
        assert said in refused.stderr
    nothing = run()
    assert nothing.returncode == 1 and "a recording or folder is missing" in nothing.stderr


def test_the_flags_of_the_model_are_what_loading_takes():
    # The language is one of the options that go with each recording; the engine runs in this process.
    assert set(inspect.signature(load_pipeline).parameters) - {"language", "load"} == set(MODEL_FLAGS)


def test_a_run_that_is_stopped_leaves_no_half_transcripts(tiny_artifact_dir, recordings):
    for number in range(300):
        (recordings / f"{number}.wav").write_bytes((recordings / "a.wav").read_bytes())
    # This engine is slow enough to be stopped in the midst of them.
    model = ("--model-dir", tiny_artifact_dir, "--quantization", "none", "--engine", "transformers")
    child = subprocess.Popen(
        command(recordings, *model), cwd=ROOT, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()  # the first is written
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=300)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert b"interrupted" in errors and b"Traceback" not in errors
    assert 0 < len(list(recordings.rglob("*.txt"))) < 300
    assert list(recordings.rglob("*.part")) == []
