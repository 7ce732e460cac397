"""What is said again and again is written as often; what only the text repeats is a loop."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
import soundfile
from scipy.signal import resample, resample_poly

from serve.audio.features import FeatureExtractor, window_length_s
from serve.audio.samples import FRAMES_PER_S, SAMPLE_RATE
from serve.engine import Hypothesis, TimedText
from serve.engine.copies import is_repetitive, sound_repeats, weighed
from serve.engine.vocabulary import Vocabulary
from serve.engine.words import guessed_times, heard_frames

SENTENCE = "आज सकाळी बाजारात जाऊन मी भाजी आणि फळे विकत घेतली आणि मग घरी आलो"


@pytest.fixture(scope="module")
def vocabulary(whisper_base_dir):
    return Vocabulary.read(whisper_base_dir)


@pytest.fixture(scope="module")
def features(whisper_base_dir):
    return FeatureExtractor(whisper_base_dir)


def spoken(text: str, *, speed: int = 150, voice: str = "mr") -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, sample_rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    return resample_poly(samples[loud[0] : loud[-1]], SAMPLE_RATE, sample_rate).astype(np.float32)


def log_mel_of(features, samples):
    return features.log_mel(samples, window_length_s(len(samples), 0.9))


def hypothesis_of(vocabulary, text, **more) -> Hypothesis:
    return Hypothesis(
        tokens=tuple(vocabulary.encode(" " + text)),
        text=text,
        language="mr",
        avg_logprob=-0.2,
        no_speech_prob=0.1,
        **more,
    )


@pytest.fixture(scope="module")
def weigh(vocabulary, features):
    """A function that weighs a text against samples, its words timed or not."""

    def weigh(samples, text, words=None, **more) -> Hypothesis:
        log_mel = log_mel_of(features, samples)
        written = hypothesis_of(vocabulary, text, **more)
        assert is_repetitive(text)
        n_frames = heard_frames(log_mel)
        return weighed(
            written,
            words or guessed_times(written.tokens, "mr", vocabulary, n_frames=n_frames),
            log_mel,
            vocabulary,
            max_tokens=224,
            is_timed=words is not None,
        )

    return weigh


@pytest.mark.parametrize(
    ("phrase", "n_said", "n_written", "speed", "voice"),
    [
        ("नको", 6, 6, 130, "mr"),
        ("नको", 6, 9, 130, "mr+f2"),
        ("थांब", 15, 11, 175, "mr"),
        ("पाणी", 12, 28, 160, "mr+m3"),
        ("हो", 20, 14, 150, "mr"),
        ("चला लवकर", 8, 6, 150, "mr+f4"),
        ("मला पाणी हवे आहे", 7, 5, 140, "mr"),
        ("पाणी,", 7, 5, 150, "mr"),
    ],
)
def test_a_text_has_as_many_copies_as_the_sound(weigh, phrase, n_said, n_written, speed, voice):
    samples = spoken(" ".join([phrase] * n_said), speed=speed, voice=voice)
    found = weigh(samples, " ".join([phrase] * n_written), looped=True, truncated=True)
    assert found.text.split() == phrase.split() * n_said
    assert (found.is_echo, found.looped, found.truncated) == (True, False, False)
    times = [time_s for word in found.words for time_s in (word.start_s, word.end_s)]
    assert times == sorted(times) and len(found.words) == len(found.text.split())
    copies_s = np.diff([word.start_s for word in found.words][:: len(phrase.split())])
    # The first one may be cut by the beginning of the window.
    assert np.allclose(copies_s[1:], len(samples) / SAMPLE_RATE / n_said, rtol=0.2)


def test_copies_that_differ_in_length_pitch_loudness_and_pause_are_counted(weigh):
    rng = np.random.default_rng(1)
    word = spoken("टाकला")
    pieces = []
    for _ in range(9):
        copy = resample(word, int(len(word) * rng.uniform(0.87, 1.13))) * rng.uniform(0.6, 1.2)
        pieces += [copy, np.zeros(int(SAMPLE_RATE * rng.uniform(0.05, 0.2)))]
    samples = np.concatenate(pieces) + rng.normal(0, 0.001, sum(map(len, pieces)))
    found = weigh(samples.astype(np.float32), " ".join(["टाकला"] * 7))
    assert found.text.split() == ["टाकला"] * 9


def test_words_before_and_behind_what_is_repeated_stay(weigh, vocabulary):
    said = [spoken("तो म्हणाला"), spoken(" ".join(["नाही"] * 9)), spoken("मी घरी येणार")]
    before_s, repeated_s, behind_s = (len(piece) / SAMPLE_RATE for piece in said)
    texts = ["तो", "म्हणाला", *["नाही"] * 7, "मी", "घरी", "येणार"]
    lengths_s = [before_s / 2] * 2 + [repeated_s / 7] * 7 + [behind_s / 3] * 3
    ends_s = np.cumsum(lengths_s)
    words = [
        TimedText(
            text=text, start_s=end_s - length_s, end_s=end_s, tokens=tuple(vocabulary.encode(" " + text))
        )
        for text, length_s, end_s in zip(texts, lengths_s, ends_s, strict=True)
    ]
    found = weigh(np.concatenate(said), " ".join(texts), words)
    assert found.text.split() == ["तो", "म्हणाला", *["नाही"] * 9, "मी", "घरी", "येणार"]
    assert found.words[2].start_s == pytest.approx(before_s, abs=0.15)


def test_the_beginning_of_one_more_copy_goes_and_the_full_stop_stays(weigh):
    samples = spoken(" ".join(["चला लवकर"] * 8))
    assert weigh(samples, "चला लवकर " * 6 + "चला").text.split() == ["चला", "लवकर"] * 8
    assert weigh(samples, "चला लवकर, " * 5 + "चला लवकर.").text == "चला लवकर, " * 7 + "चला लवकर."


def music() -> np.ndarray:
    """Make four seconds of a tune without a beat."""
    rng = np.random.default_rng(3)
    time_s = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    tune = np.zeros(len(time_s))
    for begin_s in np.cumsum(rng.uniform(0.15, 0.5, 12)):
        note = np.clip(time_s - begin_s, 0, None)
        hz = 220 * 2 ** (rng.integers(0, 18) / 12)
        tone = sum(np.sin(2 * np.pi * hz * n * note) / n for n in range(1, 6))
        tune += (note > 0) * np.exp(-5 * note) * tone
    return (0.2 * tune / np.abs(tune).max()).astype(np.float32)


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(lambda: spoken(SENTENCE), id="a sentence"),
        pytest.param(lambda: spoken("एक, दोन, तीन, चार, पाच, सहा, सात, आठ, नऊ, दहा"), id="numbers"),
        pytest.param(
            lambda: np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE).astype(np.float32), id="noise"
        ),
        pytest.param(lambda: np.zeros(5 * SAMPLE_RATE, np.float32), id="silence"),
        pytest.param(music, id="music"),
    ],
)
@pytest.mark.parametrize("n_written", [5, 10, 30])
def test_a_loop_over_sound_that_does_not_repeat_itself_stays_a_loop(weigh, sound, n_written):
    for phrase in ("धन्यवाद", "हो", "पुन्हा भेटू"):
        found = weigh(sound(), " ".join([phrase] * n_written), looped=True)
        assert found.looped and not found.is_echo
        assert found.text.split() == phrase.split() * n_written


def test_a_repetition_that_is_written_a_little_otherwise_each_time_is_believed(weigh):
    text = "चाला लावर चला लावर चला लवर चाला लवर चला लावर चला लावर चाला लावर चला लवर चला लावर चला लवर"
    said = weigh(spoken(" ".join(["चला लवकर"] * 8)), text)
    assert (said.is_echo, said.text) == (True, text)
    assert not weigh(spoken(SENTENCE), text).is_echo


def test_only_sound_that_repeats_itself_lets_a_text_go_on_looping(features):
    assert sound_repeats(log_mel_of(features, spoken(" ".join(["थांब"] * 9))))
    assert not sound_repeats(log_mel_of(features, spoken(SENTENCE)))


def test_sound_of_any_length_can_be_asked(features):
    for length_s in (0.01, 0.05, 0.3, 1.0, 30.0):
        samples = np.random.default_rng(0).normal(0, 0.1, int(length_s * SAMPLE_RATE)).astype(np.float32)
        log_mel = features.log_mel(samples, max(1.0, length_s))
        assert heard_frames(log_mel) <= log_mel.shape[1] <= 30 * FRAMES_PER_S
        assert not sound_repeats(log_mel)


def test_a_stretch_in_the_middle_that_is_like_nothing_is_passed_over():
    word = np.random.default_rng(0).normal(0, 1, (80, 60)).astype(np.float32)
    word = np.cumsum(word, axis=1)  # changes slowly, as speech does
    pause = np.repeat(word.mean(axis=1, keepdims=True), 60, axis=1)
    # Four copies in a row, before or behind the pause, are less than the window.
    assert not sound_repeats(np.hstack([word] * 4 + [pause] + [word] * 4))
    assert sound_repeats(np.hstack([word] * 9))


@pytest.mark.parametrize("text", ["", "हो", SENTENCE, "हो हो हो"])
def test_most_texts_are_not_even_looked_at(text):
    assert not is_repetitive(text)
