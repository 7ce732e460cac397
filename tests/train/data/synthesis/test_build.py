"""The corpus builder, on a corpus small enough to speak here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.samples import SAMPLE_RATE
from train.data.manifest import load_samples, read_manifest

FIELDS = ("audio", "text", "language", "duration_s", "voice", "kind", "source")
NEURAL = {"train-neural", "valid-neural", "test-neural", "train-hindi"}
ROOT = Path(__file__).parents[4]


def build(directory, **sizes):
    amounts = (
        dict.fromkeys(("everyday", "catalogue", "exchanged", "words", "kokoro", "piper", "hindi"), 0) | sizes
    )
    flags = [word for name, amount in amounts.items() for word in (f"--{name}", str(amount))]
    command = [sys.executable, "-m", "train.command_line", "data", "--output-dir", str(directory), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Clips of formant and diphone voices."""
    directory = tmp_path_factory.mktemp("corpus")
    run = build(directory, everyday=12, test=3)
    assert run.returncode == 0, run.stderr
    assert "train: 12 clips" in run.stdout and "15/15" not in run.stdout
    return directory


def manifests_are_true(directory, *names):
    for name in names:
        for clip in read_manifest(directory / f"{name}.jsonl"):
            info = soundfile.info(clip.path)
            assert (info.format, info.samplerate, info.channels) == ("FLAC", SAMPLE_RATE, 1)
            assert info.duration == pytest.approx(clip.duration_s, abs=1e-3)
            assert np.abs(load_samples(clip)).max() == pytest.approx(0.5, abs=0.01)


def test_clips_are_what_the_manifests_say(corpus):
    manifests_are_true(corpus, "train", "valid", "test-everyday")


@pytest.mark.slow
def test_neural_clips_are_what_their_manifests_say(tmp_path):
    run = build(tmp_path, kokoro=1, piper=1, hindi=2, test=1)
    assert run.returncode == 0, run.stderr
    assert "train-neural: 2 clips" in run.stdout
    assert {file.stem for file in tmp_path.glob("*.jsonl")} == NEURAL
    manifests_are_true(tmp_path, *NEURAL)
    assert {clip.language for clip in read_manifest(tmp_path / "train-hindi.jsonl")} == {"hi"}
    assert kinds_of(tmp_path / "train-neural.jsonl") == {"kokoro": "neural", "piper": "neural"}


def test_a_second_build_elsewhere_is_the_same_to_the_bit(corpus, tmp_path):
    assert build(tmp_path, everyday=12, test=3).returncode == 0
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (corpus / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_a_build_that_was_stopped_speaks_only_what_is_missing(corpus):
    clips = sorted((corpus / "clips").glob("*.flac"))
    missing, kept = clips[0], clips[-1]
    content, kept_at = missing.read_bytes(), kept.stat().st_mtime_ns
    missing.unlink()
    assert build(corpus, everyday=12, test=3).returncode == 0
    assert missing.read_bytes() == content and kept.stat().st_mtime_ns == kept_at


@pytest.mark.parametrize("condition", ["telephone", "room", "hall", "pitch", "noise"])
def test_conditions_change_the_sound_and_not_the_words(corpus, condition):
    plain = read_manifest(corpus / "test-everyday.jsonl")
    changed = read_manifest(corpus / f"test-everyday-{condition}.jsonl")
    assert [clip.text for clip in changed] == [clip.text for clip in plain]
    for before, after in zip(plain, changed, strict=True):
        heard, spoken = load_samples(after), load_samples(before)
        n = min(len(heard), len(spoken))
        assert np.corrcoef(heard[:n], spoken[:n])[0, 1] < 0.99
        if condition == "telephone":
            spectrum = np.abs(np.fft.rfft(heard)) ** 2
            above = np.fft.rfftfreq(len(heard), 1 / SAMPLE_RATE) > 4_200
            assert spectrum[above].sum() < 1e-3 * spectrum.sum()
        elif condition in ("room", "hall"):
            assert len(heard) > len(spoken) + 0.25 * SAMPLE_RATE
        elif condition == "pitch":
            assert len(heard) == pytest.approx(len(spoken), rel=0.03)
        else:
            heard, spoken = heard[:n], spoken[:n]
            scale = np.dot(heard, spoken) / np.dot(spoken, spoken)
            noise = heard / scale - spoken
            assert 10 * np.log10(np.mean(spoken**2) / np.mean(noise**2)) == pytest.approx(15, abs=0.3)


def test_nobody_speaks_in_the_clips_without_speech(corpus):
    clips = read_manifest(corpus / "test-no-speech.jsonl")
    assert [clip.voice for clip in clips] == ["silence", "noise", "tone", "music", "silence", "noise"]
    for clip in clips:
        samples = load_samples(clip)
        assert clip.text == "" and 1 <= clip.duration_s <= 12.1
        assert (np.abs(samples).max() > 1e-3) == (clip.voice != "silence") and np.isfinite(samples).all()


def test_a_missing_synthesiser_ends_the_build_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    run = build(tmp_path, everyday=12, kokoro=1, test=3)
    assert run.returncode == 1
    assert "is not installed: run `make system-deps`" in run.stderr and "Traceback" not in run.stderr


def test_rows_say_who_spoke_and_where_the_text_is_from(corpus):
    assert kinds_of(corpus / "train.jsonl") == {"espeak": "formant", "nsk": "diphone"}


def kinds_of(manifest):
    """Return each engine's kind by the rows of a manifest, which have all their fields."""
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    assert all({*FIELDS} == row.keys() for row in rows)
    return {row["voice"].partition("-")[0]: row["kind"] for row in rows}
