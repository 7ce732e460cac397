"""From samples to a transcript, with an engine that says what it was given."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from serve.audio.mixing import MAX_CHANNELS
from serve.audio.recording import Recording
from serve.engine import CPU_BATCH, Engine, Hypothesis, TimedText
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.scheduler import WINDOWS_AHEAD
from serve.errors import UndecodableAudio, UnsupportedOption
from serve.options import TranscriptionOptions
from serve.pipeline import Pipeline, ServingFacts
from serve.transcript.events import End, Segment, Start

RATE = 16_000


class Parrot(Engine):
    """An engine that answers with the number of frames it was given.

    Where no language is named it hears what `detected` says of each window, in turn, and then Hindi.
    """

    languages = frozenset({"mr", "hi", "en"})
    has_adapter = True
    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self, **heard) -> None:
        self.batches: list[list] = []
        self.lacks: set[str] = set()
        self.detected: list[dict[str, float]] = []
        self.heard = heard

    def unsupported(self, options):
        return next(((name, "cannot") for name in self.lacks if getattr(options, name)), None)

    def kind(self, window):
        return window.options.adapter, window.n_frames

    def detect_language(self, windows):
        assert {window.n_frames for window in windows} == {3_000}
        said = [self.detected.pop(0) if self.detected else {"hi": 0.99} for _ in windows]
        return [{code: each.get(code, 0.005) for code in sorted(self.languages)} for each in said]

    def decode(self, windows):
        self.batches.append([window.options for window in windows])
        return [self.answer(window) for window in windows]

    @property
    def options(self) -> list:
        """Options of all windows, in order."""
        return [option for batch in self.batches for option in batch]

    def answer(self, window) -> Hypothesis:
        heard = {
            "tokens": (1,),
            "text": f"{window.n_frames} frames",
            "avg_logprob": -0.8,
            "no_speech_prob": 0.0,
        }
        return Hypothesis(language=window.options.language, **heard | self.heard)

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
    margin_s = n_frames / 100 - (segment.end_s - segment.start_s)
    assert n_frames % 100 == 0 and 0.5 <= margin_s <= 1.5
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
    assert (decoding.adapter is not None) == (adapter is None and facts.adapter_name is not None)


AUTO = TranscriptionOptions(language="auto")


@pytest.fixture
def many_windows(speech):
    """Six windows: stretches of speech with long pauses."""
    pause = np.zeros(2 * RATE, np.float32)
    return np.concatenate([piece for _ in range(6) for piece in (speech, pause)])


def test_a_window_in_doubt_is_written_in_the_language_of_its_neighbours(many_windows):
    pipeline = pipeline_of()
    doubt = {"hi": 0.01, "mr": 0.3, "en": 0.3}
    pipeline.engine.detected = [doubt, *[{"en": 0.99}] * 2, doubt, {"en": 0.99}, doubt]
    start, *segments, end = pipeline.transcribe(many_windows, AUTO)
    assert start.language is None
    assert [segment.language for segment in segments] == ["en"] * 6
    assert all(segment.language_prob > 0.5 for segment in segments)
    assert [option.adapter for option in pipeline.engine.options] == [None] * 6
    mean = sum(segment.language_prob for segment in segments) / 6
    assert (end.transcript.language, end.transcript.language_prob) == ("en", pytest.approx(mean))


def test_a_recording_that_turns_to_another_language_is_written_in_both(many_windows):
    pipeline = pipeline_of()
    pipeline.engine.detected = [{"mr": 0.99}] * 5 + [{"en": 0.99}]
    *segments, end = list(pipeline.transcribe(many_windows, AUTO))[1:]
    assert [segment.language for segment in segments] == ["mr"] * 5 + ["en"]
    assert [option.adapter for option in pipeline.engine.options] == ["served"] * 5 + [None]
    assert [segment.text for segment in segments][-1] == "3000 frames", "the base model hears 30 s"
    assert end.transcript.language == "mr"


def test_the_text_of_a_window_whose_language_is_sure_waits_for_no_other(speech):
    read = []

    def blocks():
        for number in range(100):
            read.append(number)
            yield np.concatenate([speech, np.zeros(5 * RATE, np.float32)])[None]

    pipeline = pipeline_of()
    pipeline.engine.detected = [{"en": 0.99}] * 100
    events = pipeline.transcribe(Recording(blocks()), AUTO)
    assert [next(events).language, next(events).language] == [None, "en"]
    assert len(read) <= 3 * WINDOWS_AHEAD


def test_windows_are_shorter_where_another_language_may_begin_behind_each_pause(speech):
    spoken = np.concatenate([speech[: 2 * RATE], np.zeros(RATE // 2, np.float32)] * 3)
    told, untold = pipeline_of(), pipeline_of()
    list(told.transcribe(spoken))
    list(untold.transcribe(spoken, AUTO))
    assert len(untold.engine.options) > len(told.engine.options)


def test_a_model_of_one_language_needs_no_detection(speech):
    pipeline = pipeline_of(ServingFacts())
    pipeline.engine.languages = frozenset({"en"})
    pipeline.engine.detect_language = None
    *_, end = pipeline.transcribe(speech, AUTO)
    assert (end.transcript.language, end.transcript.language_prob) == ("en", None)


def test_a_named_language_has_no_probability(speech):
    *_, end = pipeline_of().transcribe(speech)
    assert (end.transcript.language, end.transcript.language_prob) == ("mr", None)
    assert end.transcript.segments[0].language_prob is None


def test_text_is_bounded_by_the_seconds_of_speech(speech):
    pipeline = pipeline_of()
    list(pipeline.transcribe(speech))
    ((decoding,),) = pipeline.engine.batches
    assert 20 * 4 <= decoding.max_new_tokens <= 30 * 6


def test_a_window_that_the_model_takes_for_noise_has_no_segment(speech):
    pipeline = pipeline_of()
    pipeline.engine.heard = {"no_speech_prob": 0.9, "avg_logprob": -2.0}
    assert len(list(pipeline.transcribe(speech))) == 2


@pytest.mark.parametrize(
    ("speech_prob", "avg_logprob", "no_speech_prob", "is_said"),
    [
        (0.95, -0.7, 0.9, True),
        (0.6, -0.7, 0.9, False),
        (0.6, -0.2, 0.9, True),
        (0.6, -0.7, 0.3, True),
        (0.95, -1.1, 0.9, False),
    ],
)
def test_where_the_detector_doubts_the_models_own_doubt_suffices(
    speech, monkeypatch, speech_prob, avg_logprob, no_speech_prob, is_said
):
    monkeypatch.setattr("serve.audio.segmentation.Window.speech_prob", speech_prob)
    pipeline = pipeline_of()
    pipeline.engine.heard = {"avg_logprob": avg_logprob, "no_speech_prob": no_speech_prob}
    *_, end = pipeline.transcribe(speech)
    assert bool(end.transcript.segments) == is_said


@pytest.mark.parametrize(
    ("options", "name"),
    [(TranscriptionOptions(adapter="other"), "adapter"), (TranscriptionOptions(language="de"), "language")],
)
def test_what_the_served_model_lacks_is_refused_by_name(options, name):
    with pytest.raises(UnsupportedOption) as refused:
        pipeline_of().resolve(options)
    assert refused.value.name == name


@pytest.mark.parametrize(
    ("name", "value"),
    [("beam_size", 5), ("hotwords", "श्रोता"), ("suppress", ("uh",)), ("word_timestamps", True)],
)
def test_an_option_reaches_the_engine_or_is_refused_by_name(speech, name, value):
    pipeline = pipeline_of()
    options = TranscriptionOptions(**{name: value})
    list(pipeline.transcribe(speech, options))
    assert getattr(pipeline.engine.batches[0][0], name) == value
    pipeline.engine.lacks = {name}
    with pytest.raises(UnsupportedOption, match="cannot") as refused:
        pipeline.resolve(options)
    assert refused.value.name == name


def test_sentences_are_timed_where_the_adapter_learned_it_and_the_engine_can():
    pipeline = pipeline_of(replace(DYNAMIC, timestamps=True))
    assert pipeline.resolve(TranscriptionOptions()).timestamps
    assert not pipeline.resolve(TranscriptionOptions(adapter="none")).timestamps
    assert not pipeline_of().resolve(TranscriptionOptions()).timestamps
    pipeline.engine.lacks = {"timestamps"}
    assert not pipeline.resolve(TranscriptionOptions()).timestamps


SPLIT = TranscriptionOptions(channels="split")


def test_channels_that_are_split_are_transcribed_side_by_side_in_order_of_their_start(speech):
    silence = np.zeros_like(speech)
    agent = np.concatenate([speech, silence, speech, silence])
    caller = np.concatenate([silence, speech, silence, speech])
    segments = list(pipeline_of().transcribe(np.stack([agent, caller]), SPLIT))[1:-1]
    assert [segment.channel for segment in segments] == [0, 1, 0, 1]
    assert [segment.id for segment in segments] == [0, 1, 2, 3]
    starts = [segment.start_s for segment in segments]
    assert starts == sorted(starts)
    assert starts == pytest.approx([0.5, 5.5, 10.5, 15.5], abs=0.5)


def test_equal_channels_are_both_transcribed(speech):
    segments = list(pipeline_of().transcribe(np.stack([speech, speech]), SPLIT))[1:-1]
    assert [segment.channel for segment in segments] == [0, 1]
    assert len({(segment.start_s, segment.end_s, segment.text) for segment in segments}) == 1


def test_a_mono_recording_that_is_split_is_channel_0_and_one_that_is_not_has_none(speech):
    for options, channel in ((SPLIT, 0), (TranscriptionOptions(), None)):
        (segment,) = list(pipeline_of().transcribe(speech, options))[1:-1]
        assert segment.channel == channel


def test_channels_are_averaged_unless_they_are_split(speech):
    pipeline = pipeline_of()
    halves = np.stack([2 * speech, np.zeros_like(speech)])
    assert list(pipeline.transcribe(halves))[1:-1] == list(pipeline.transcribe(speech))[1:-1]


def test_more_channels_than_can_be_told_apart_are_refused_by_name(speech):
    with pytest.raises(UnsupportedOption, match="5 channels") as refused:
        next(pipeline_of().transcribe(np.stack([speech] * (MAX_CHANNELS + 1)), SPLIT))
    assert refused.value.name == "channels"


def test_the_first_segment_comes_before_the_recording_is_read_to_its_end(speech):
    read = []

    def blocks():
        for number in range(100):
            read.append(number)
            yield np.concatenate([speech, np.zeros(5 * RATE, np.float32)])[None]

    events = pipeline_of().transcribe(Recording(blocks()))
    assert next(events) == Start(duration_s=None, language="mr")
    assert isinstance(next(events), Segment)
    assert len(read) <= 2 * WINDOWS_AHEAD
    *_, end = events
    assert end.transcript.duration_s == 1_000.0


def test_what_goes_wrong_late_in_a_recording_comes_after_the_segments_before_it(speech):
    def blocks():
        for _ in range(10):
            yield np.concatenate([speech, np.zeros(5 * RATE, np.float32)])[None]
        raise UndecodableAudio("cut off")

    seen = []
    with pytest.raises(UndecodableAudio):
        for event in pipeline_of().transcribe(Recording(blocks())):
            seen.append(event)
    assert len(seen) > 5


def test_many_clips_give_what_each_gives_alone(speech, long_speech, many_windows):
    clips = [speech, np.zeros(RATE, np.float32), long_speech, speech[: 3 * RATE], many_windows]
    options = [TranscriptionOptions(language=language) for language in ("mr", "mr", "auto", "en", "auto")]
    alone = [
        list(pipeline_of().transcribe(clip, option))[-1].transcript
        for clip, option in zip(clips, options, strict=True)
    ]
    together = pipeline_of()
    assert together.transcribe_many(clips, options, BatchLimits(max_windows=3)) == alone
    assert max(len(batch) for batch in together.engine.batches) <= 3


def test_batches_of_many_clips_are_bounded_in_seconds(speech):
    pipeline = pipeline_of(ServingFacts(language="mr"))
    answer = pipeline.engine.answer
    pipeline.engine.answer = lambda window: time.sleep(0.2) or answer(window)
    pipeline.transcribe_many([speech] * 9, limits=BatchLimits(max_batch_s=60.0, target_s=math.inf))
    sizes = [len(batch) for batch in pipeline.engine.batches]
    assert sum(sizes) == 9 and max(sizes) == 2, "while the first is decoded the others gather"


def test_no_clips_give_no_transcripts():
    assert pipeline_of().transcribe_many([]) == []


def test_two_texts_are_kept_side_by_side_where_nobody_says_otherwise_and_the_engine_can():
    pipeline = pipeline_of()

    def beams(**options) -> int:
        return pipeline.resolve(TranscriptionOptions(**options)).beam_size

    assert (beams(), beams(beam_size=1), beams(beam_size=4), beams(temperature=0.5)) == (2, 1, 4, 1)
    pipeline.engine.unsupported = lambda options: ("beam_size", "cannot") if options.beam_size > 1 else None
    assert beams() == 1
    with pytest.raises(UnsupportedOption, match="beam_size"):
        beams(beam_size=2)


@pytest.fixture
def endless(speech):
    """Half a minute of speech without a pause."""
    return np.concatenate([speech[RATE // 2 : -RATE // 2]] * 8)


def test_only_windows_that_overlap_are_asked_for_the_times_of_words_and_nobody_sees_them(endless, speech):
    words = (TimedText(text="12", start_s=0.0, end_s=0.2),)
    pipeline = pipeline_of()
    pipeline.engine.heard = {"text": "12", "words": words}
    _, *segments, _ = pipeline.transcribe(np.concatenate([endless, np.zeros(3 * RATE, np.float32), speech]))
    timed = [option.word_timestamps for option in pipeline.engine.options]
    assert timed == [True] * (len(timed) - 1) + [False]
    assert not any(segment.words for segment in segments)
    pipeline.engine.lacks = {"word_timestamps"}
    pipeline.engine.batches.clear()
    list(pipeline.transcribe(endless))
    assert not any(option.word_timestamps for option in pipeline.engine.options)


def test_segments_of_speech_without_a_pause_ascend_and_meet(endless):
    _, *segments, end = pipeline_of().transcribe(endless)
    assert len(segments) > 2
    times = [time for segment in segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times) and times[-1] <= 32.0
    assert end.transcript.segments == tuple(segments)
