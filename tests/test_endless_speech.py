"""The shipped adapter on speech without a pause and on repeated words: nothing is lost, nothing doubled."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from serve.audio.samples import SAMPLE_RATE
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline
from serve.service.loading import load_pipeline
from serve.transcript.events import Segment, Transcript
from train.evaluate.scoring import score

ROOT = Path(__file__).parents[1]
TEXT = "राजा असतो तर कर माफ करून टाकला असता"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(ROOT / "model_artifacts" / "whisper-base-mr", n_threads=2)


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    samples, _ = soundfile.read(ROOT / "tests" / "data" / "sample-mr.flac", dtype="float32")
    return samples


def transcript_of(pipeline: Pipeline, samples: np.ndarray, **options) -> Transcript:
    *events, end = pipeline.transcribe(samples, TranscriptionOptions(language="mr", **options))
    assert tuple(event for event in events if isinstance(event, Segment)) == end.transcript.segments
    return end.transcript


def test_sentences_without_a_pause_are_whole_once_each_and_in_order(pipeline, sample):
    endless = np.concatenate([sample] * 9)  # half a minute; windows hold 14 s
    transcript = transcript_of(pipeline, endless)
    assert len(transcript.segments) > 2
    assert score([" ".join([TEXT] * 9)], [transcript.text], "marathi").cer < 0.2
    assert transcript.text.count("करून") == transcript.text.count("असता") == 9
    times = [time_s for each in transcript.segments for time_s in (each.start_s, each.end_s)]
    assert times == sorted(times) and times[-1] <= len(endless) / SAMPLE_RATE
    assert not any(segment.words for segment in transcript.segments)
    timed = transcript_of(pipeline, endless, word_timestamps=True)
    assert timed.text == transcript.text
    assert [word.text for each in timed.segments for word in each.words] == timed.text.split()
    (together, _) = pipeline.transcribe_many([endless, sample], TranscriptionOptions(language="mr"))
    assert together.text == transcript.text


def said(text: str, voice: str, speed: int) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    samples, sample_rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return resample_poly(samples, SAMPLE_RATE, sample_rate).astype(np.float32)


@pytest.mark.parametrize(
    ("voice", "speed", "n_times"), [("mr", 150, 10), ("mr+f4", 140, 12), ("mr", 150, 45)]
)
def test_a_word_said_again_and_again_comes_back_as_often(pipeline, voice, speed, n_times):
    transcript = transcript_of(pipeline, said(" ".join(["पाणी"] * n_times), voice, speed))
    assert len(transcript.text.split()) == n_times, transcript.text


def test_a_phrase_said_again_and_again_with_short_pauses_comes_back_as_often(pipeline, sample):
    phrase = sample[: int(0.9 * SAMPLE_RATE)]  # two words; at 0.93 s the next one begins
    pauses = [
        np.zeros(int(pause_s * SAMPLE_RATE), np.float32) for pause_s in (0.1, 0.2, 0.15, 0.1, 0.2, 0.1, 0.1)
    ]
    samples = np.concatenate([piece for pause in pauses for piece in (phrase, pause)])
    assert len(transcript_of(pipeline, samples).text.split()) == 2 * len(pauses)
