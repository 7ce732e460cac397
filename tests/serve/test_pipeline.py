"""From samples to a transcript, with an engine that says what it was given."""

import numpy as np
import pytest

from serve.engine import Hypothesis
from serve.errors import UnsupportedOption
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline, ServingFacts
from serve.transcript import End, Segment, Start

RATE = 16_000


class Parrot:
    """An engine that answers with the number of frames it was given, and hears Hindi if nothing is named."""

    languages = frozenset({"mr", "hi", "en"})
    has_adapter = True
    no_speech_prob = 0.0

    def __init__(self) -> None:
        self.batches: list[list] = []

    def transcribe_batch(self, log_mels, options):
        self.batches.append(list(options))
        return [self.answer(log_mel, option) for log_mel, option in zip(log_mels, options, strict=True)]

    def answer(self, log_mel, option) -> Hypothesis:
        return Hypothesis(
            tokens=(1,),
            text=f"{log_mel.shape[1]} frames",
            language=option.language or "hi",
            language_prob=None,
            avg_logprob=-2.0,
            no_speech_prob=self.no_speech_prob,
        )

    def close(self) -> None: ...


class Frames:
    """Features of the right shape."""

    def log_mel(self, samples, window_s):
        assert len(samples) <= window_s * RATE
        return np.zeros((80, round(window_s * 100)), np.float32)


DYNAMIC = ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=12.0)


def pipeline_of(facts=DYNAMIC):
    return Pipeline(Parrot(), Frames(), facts)


@pytest.fixture
def long_speech(speech):
    """Five stretches of four seconds, with pauses of a second and of five."""
    pause = np.zeros(4 * RATE, np.float32)
    return np.concatenate([speech, speech, pause, speech, speech, speech])


def test_events_are_a_start_then_segments_then_an_end(long_speech):
    start, *segments, end = pipeline_of().transcribe(long_speech)
    assert start == Start(duration_s=29.0, language="mr")
    assert segments and all(isinstance(segment, Segment) for segment in segments)
    assert isinstance(end, End)
    assert end.transcript.segments == tuple(segments)
    assert end.transcript.text == " ".join(segment.text for segment in segments)
    assert end.processing_s > 0


def test_segments_ascend_and_lie_inside_the_recording(long_speech):
    segments = list(pipeline_of().transcribe(long_speech))[1:-1]
    times = [time for segment in segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= 29.0
    assert [segment.id for segment in segments] == list(range(len(segments)))


def test_silence_gives_no_segments_and_never_reaches_the_engine():
    pipeline = pipeline_of()
    start, end = pipeline.transcribe(np.zeros(3 * RATE, np.float32))
    assert (start.duration_s, end.transcript.text, end.transcript.segments) == (3.0, "", ())
    assert pipeline.engine.batches == []


def test_a_dynamic_adapter_reads_windows_of_the_speechs_own_length(speech):
    pipeline = pipeline_of()
    (segment,) = list(pipeline.transcribe(speech))[1:-1]
    n_frames = int(segment.text.split()[0])
    assert 100 * (segment.end_s - segment.start_s + 1.0) == pytest.approx(n_frames, abs=10)
    assert n_frames < 650


@pytest.mark.parametrize(
    ("facts", "adapter"),
    [(DYNAMIC, "none"), (ServingFacts(adapter_name="tiny-mr"), None), (ServingFacts(), None)],
)
def test_every_other_model_reads_windows_of_30_s(speech, facts, adapter):
    pipeline = pipeline_of(facts)
    segments = list(pipeline.transcribe(speech, TranscriptionOptions(adapter=adapter)))[1:-1]
    assert [segment.text for segment in segments] == ["3000 frames"]
    ((decoding,),) = pipeline.engine.batches
    assert decoding.adapter == (adapter is None and facts.adapter_name is not None)


def test_the_first_window_settles_a_language_that_nobody_named(long_speech):
    pipeline = pipeline_of()
    start, *_, end = pipeline.transcribe(long_speech, TranscriptionOptions(language="auto"))
    assert start.language is None
    languages = [option.language for batch in pipeline.engine.batches for option in batch]
    assert languages == [None, *["hi"] * (len(languages) - 1)]
    assert len(languages) > 1
    assert end.transcript.language == "hi"


def test_text_is_bounded_by_the_seconds_of_speech(speech):
    pipeline = pipeline_of()
    list(pipeline.transcribe(speech))
    ((decoding,),) = pipeline.engine.batches
    assert 20 * 4 <= decoding.max_new_tokens <= 30 * 6


def test_a_window_that_the_model_takes_for_noise_has_no_segment(speech):
    pipeline = pipeline_of()
    pipeline.engine.no_speech_prob = 0.9
    assert len(list(pipeline.transcribe(speech))) == 2


@pytest.mark.parametrize(
    ("options", "name"),
    [(TranscriptionOptions(adapter="other"), "adapter"), (TranscriptionOptions(language="de"), "language")],
)
def test_what_the_served_model_lacks_is_refused_by_name(options, name):
    with pytest.raises(UnsupportedOption) as refused:
        pipeline_of().resolve(options)
    assert refused.value.name == name


def test_many_clips_give_what_each_gives_alone(speech, long_speech):
    clips = [speech, np.zeros(RATE, np.float32), long_speech, speech[: 3 * RATE]]
    options = [TranscriptionOptions(language=language) for language in ("mr", "mr", "auto", "en")]
    alone = [
        list(pipeline_of().transcribe(clip, option))[-1].transcript
        for clip, option in zip(clips, options, strict=True)
    ]
    together = pipeline_of()
    assert together.transcribe_many(clips, options, max_batch_windows=3) == alone
    assert max(len(batch) for batch in together.engine.batches) == 3


def test_batches_of_many_clips_are_bounded_in_seconds(speech):
    pipeline = pipeline_of(ServingFacts(language="mr"))
    pipeline.transcribe_many([speech] * 5, max_batch_s=60.0)
    assert [len(batch) for batch in pipeline.engine.batches] == [2, 2, 1]


def test_no_clips_give_no_transcripts():
    assert pipeline_of().transcribe_many([]) == []
