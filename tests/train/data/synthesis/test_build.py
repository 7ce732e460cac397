"""The corpus builder, on a corpus small enough to speak here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.samples import SAMPLE_RATE
from train.data.manifest import load_samples, read_manifest
from train.data.synthesis.build import Sizes, plan_corpus
from train.data.synthesis.voices import TEST_VOICES, TRAIN_VOICES

ROOT = Path(__file__).parents[2]
WHOLE = Sizes(everyday=4100, catalogue=1500, exchanged=9500, words=3500, test=150)


@pytest.fixture(scope="module")
def plan():
    return plan_corpus(WHOLE, seed=0)


def of(plan, *splits):
    return [utterance for utterance in plan if utterance.split in splits]


def test_no_test_sentence_and_no_test_voice_is_trained_on(plan):
    trained = {utterance.sentence for utterance in of(plan, "train")}
    held_out = {utterance.sentence for utterance in of(plan, "valid", "test-everyday", "test-catalogue")}
    assert len(held_out) == 600 and not trained & held_out
    assert {u.voice.name for u in of(plan, "train", "valid")} <= {voice.name for voice in TRAIN_VOICES}
    tested = {u.voice.name for u in of(plan, "test-everyday", "test-catalogue")}
    assert tested == {voice.name for voice in TEST_VOICES}


def test_the_plan_has_the_sizes_asked_for(plan):
    sources = [utterance.source for utterance in of(plan, "train")]
    counts = Counter(sources)
    assert (counts["everyday"], counts["catalogue"], counts["words"]) == (4100, 1500, 3500)
    assert 9_400 < counts["exchanged"] <= 9_500, "a few may resemble held-out sentences"
    assert len(of(plan, "test-everyday")) == len(of(plan, "test-catalogue")) == 150


def test_the_seed_fixes_the_plan(plan):
    assert plan_corpus(WHOLE, seed=0) == plan
    assert plan_corpus(WHOLE, seed=1) != plan


def test_more_training_text_leaves_the_test_sets_as_they_are(plan):
    smaller = plan_corpus(Sizes(everyday=100, catalogue=50, exchanged=0, words=0, test=150), seed=0)
    for split in ("test-everyday", "test-catalogue", "valid"):
        assert of(smaller, split) == of(plan, split)


def test_nothing_that_is_trained_on_resembles_a_held_out_sentence(plan):
    held_out = [set(u.sentence.split()) for u in of(plan, "valid", "test-everyday", "test-catalogue")]
    for utterance in of(plan, "train"):
        words = set(utterance.sentence.split())
        for other in held_out:
            assert len(words & other) <= 0.8 * (len(words) + len(other)) / 2, utterance.sentence


def test_exchanged_words_and_sequences_teach_words_that_no_sentence_does(plan):
    words = {
        source: {word for u in of(plan, "train") if u.source == source for word in u.sentence.split()}
        for source in ("everyday", "catalogue", "exchanged", "words")
    }
    known = words["everyday"] | words["catalogue"]
    assert len(words["words"]) > 10_000 and not words["words"] & known
    assert len(words["exchanged"] - known) > 10_000


def build(directory, *options):
    command = [sys.executable, "-m", "train.command_line", "data", "--output-dir", str(directory)]
    sizes = ["--everyday", "12", "--catalogue", "0", "--exchanged", "0", "--words", "0", "--test", "3"]
    return subprocess.run(
        [*command, *sizes, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    run = build(directory)
    assert run.returncode == 0, run.stderr
    assert "train: 12 clips" in run.stdout and "15/15" not in run.stdout
    return directory


def test_clips_are_what_the_manifests_say(corpus):
    for name in ("train", "valid", "test-everyday"):
        for clip in read_manifest(corpus / f"{name}.jsonl"):
            info = soundfile.info(clip.path)
            assert (info.format, info.samplerate, info.channels) == ("FLAC", SAMPLE_RATE, 1)
            assert info.duration == pytest.approx(clip.duration_s, abs=1e-3)
            assert np.abs(load_samples(clip)).max() == pytest.approx(0.5, abs=0.01)


def test_a_second_build_elsewhere_is_the_same_to_the_bit(corpus, tmp_path):
    assert build(tmp_path).returncode == 0
    files = sorted(path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (corpus / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_a_build_that_was_stopped_speaks_only_what_is_missing(corpus):
    clips = sorted((corpus / "clips").glob("*.flac"))
    missing, kept = clips[0], clips[-1]
    content, kept_at = missing.read_bytes(), kept.stat().st_mtime_ns
    missing.unlink()
    assert build(corpus).returncode == 0
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
    run = build(tmp_path)
    assert run.returncode == 1
    assert "is not installed: run `make system-deps`" in run.stderr and "Traceback" not in run.stderr


def test_rows_say_who_spoke_and_where_the_text_is_from(corpus):
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text("utf-8").splitlines()]
    assert all({"audio", "text", "language", "duration_s", "voice", "source"} == row.keys() for row in rows)
