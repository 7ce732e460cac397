"""However a recording comes in, its text is the same: alone, with others, in blocks, beside others."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.decode import AudioLimits, open_audio
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE
from serve.engine.scheduling.scheduler import Scheduler
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline
from serve.service.loading import load_pipeline
from serve.transcript.events import End, Segment, Transcript

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The shipped adapter as it is served."""
    return load_pipeline(ROOT / "model_artifacts" / "whisper-base-mr", n_threads=2)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """A sentence, parts of it, and sentences with pauses between them: one window and several."""
    samples, _ = soundfile.read(ROOT / "tests" / "data" / "sample-mr.flac", dtype="float32")
    pause = np.zeros(2 * SAMPLE_RATE, np.float32)
    several = np.concatenate([piece for _ in range(3) for piece in (samples, pause)])
    return [samples, samples[: len(samples) // 2], several, samples[len(samples) // 3 :], pause]


def whole(pipeline: Pipeline, recording: np.ndarray | Recording, **options) -> Transcript:
    """Return the transcript, having checked that it is what was streamed."""
    *events, end = pipeline.transcribe(recording, TranscriptionOptions(**options))
    assert isinstance(end, End)
    assert tuple(event for event in events if isinstance(event, Segment)) == end.transcript.segments
    assert end.transcript.text == " ".join(segment.text for segment in end.transcript.segments)
    return end.transcript


def placed(transcript: Transcript) -> list[tuple[int, float, float, str, str]]:
    """Return what was heard where, without scores: windows decoded together are padded to one length."""
    return [
        (segment.id, segment.start_s, segment.end_s, segment.text, segment.language)
        for segment in transcript.segments
    ]


@pytest.mark.parametrize("language", [None, "auto"])
def test_clips_together_have_the_text_that_each_has_alone(pipeline, clips, language):
    alone = [whole(pipeline, clip, language=language) for clip in clips]
    together = pipeline.transcribe_many(clips, TranscriptionOptions(language=language))
    assert [transcript.text for transcript in together] == [transcript.text for transcript in alone]
    assert list(map(placed, together)) == list(map(placed, alone))
    assert [transcript.language for transcript in together] == [transcript.language for transcript in alone]
    assert len(alone[2].segments) == 3
    assert alone[-1].text == ""


def test_a_recording_in_blocks_has_the_text_of_the_whole(pipeline, clips):
    blocks = (block[None] for block in np.array_split(clips[2], 17))
    assert whole(pipeline, Recording(blocks)) == whole(pipeline, clips[2])


def test_a_recording_that_turns_english_is_written_to_its_end_however_it_comes(pipeline, clips):
    english, _ = soundfile.read(ROOT / "tests" / "data" / "sample-en.flac", dtype="float32")
    pause = np.zeros(SAMPLE_RATE, np.float32)
    turned = np.concatenate([clips[0], pause, clips[0], pause, english])
    heard = whole(pipeline, turned, language="auto")
    assert [segment.language for segment in heard.segments] == ["mr", "mr", "en"]
    assert "young man" in heard.segments[-1].text.lower() and heard.language == "mr"
    assert heard.segments[0].text == heard.segments[1].text == whole(pipeline, clips[0]).text
    blocks = (block[None] for block in np.array_split(turned, 17))
    assert whole(pipeline, Recording(blocks), language="auto") == heard
    (beside, *_) = pipeline.transcribe_many([turned, clips[0]], TranscriptionOptions(language="auto"))
    assert placed(beside) == placed(heard)


def test_requests_side_by_side_have_the_text_that_each_has_alone(pipeline, clips):
    scheduler = Scheduler(pipeline.engine)

    def request(clip: np.ndarray) -> str:
        with scheduler.admit() as ticket:
            *_, end = pipeline.transcribe(clip, None, ticket)
        assert isinstance(end, End)
        return end.transcript.text

    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(request, clips * 2))
    assert beside == [whole(pipeline, clip).text for clip in clips] * 2


def test_each_line_of_a_telephone_call_is_heard(pipeline, clips):
    sentence = np.pad(clips[0], 8_000)  # half a second before the other answers
    silence = np.zeros_like(sentence)
    lines = np.stack([np.concatenate([sentence, silence]), np.concatenate([silence, sentence])], axis=1)
    body = io.BytesIO()
    soundfile.write(body, lines[::2], 8_000, format="WAV", subtype="ULAW")

    with open_audio(body.getvalue(), AudioLimits(), split=True) as call:
        agent, caller = whole(pipeline, call, channels="split").segments

    assert (agent.channel, caller.channel) == (0, 1)
    assert agent.end_s <= caller.start_s
    assert agent.text and SequenceMatcher(None, agent.text, caller.text).ratio() > 0.9
