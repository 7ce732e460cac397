"""A live session without a socket: words that are committed for good, phrases, long speech, slow engines."""

import math
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from serve.engine import CPU_BATCH, Engine, Hypothesis, TimedText
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import AudioTooLong, NotReady, UndecodableAudio
from serve.pipeline import Pipeline, ServingFacts
from serve.service.live.policies import by_agreement, by_alignment
from serve.service.live.session import LiveSession
from serve.service.live.settings import LiveSettings, parse_live_settings
from serve.transcript.events import LiveDone, LivePhrase, LiveWords

WORD_S = 0.4


class NumberingEngine(Engine):
    """Hears a numbered word in every 0.4 s; of the last it is not sure, unless it takes care."""

    languages = frozenset({"mr"})
    has_adapter = True
    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self):
        self.is_noise = False
        self.options = []
        self.n_frames = []

    def unsupported(self, options):
        return None

    def kind(self, window):
        return object()

    def decode(self, windows):
        return [self._heard(window) for window in windows]

    def _heard(self, window):
        self.options.append(window.options)
        self.n_frames.append(window.n_frames)
        seconds = float(window.log_mel[0, 0])
        prefix = window.options.prefix
        first = prefix[0] if prefix else 1_000
        count = max(len(prefix), math.floor(seconds / WORD_S))
        is_careful = window.options.beam_size > 1
        words = [
            TimedText(
                text=f"w{first + n}" if n < count - 1 or is_careful else f"doubt{len(self.options)}",
                start_s=n * WORD_S,
                end_s=(n + 1) * WORD_S,
                probability=0.9,
                tokens=(first + n,),
            )
            for n in range(0 if self.is_noise else count)
        ]
        return Hypothesis(
            text=" ".join(word.text for word in words),
            tokens=tuple(token for word in words for token in word.tokens),
            words=tuple(words),
            language="mr",
            avg_logprob=-0.1,
            no_speech_prob=0.0,
        )

    def close(self): ...


class DoubtingEngine(NumberingEngine):
    """Cannot tell Marathi from Hindi; its text without the times of words is a sentence of the test's."""

    languages = frozenset({"mr", "hi", "en"})

    def __init__(self, sentence):
        super().__init__()
        self.sentence = sentence

    def detect_language(self, windows):
        return [{"mr": 0.3, "hi": 0.6, "en": 0.1}] * len(windows)

    def _heard(self, window):
        heard = replace(super()._heard(window), language=window.options.language)
        return heard if window.options.word_timestamps else replace(heard, text=self.sentence)


class Seconds:
    """Features that tell how long the sound is."""

    def log_mel(self, samples, window_s):
        return np.full((80, round(window_s * 100)), len(samples) / SAMPLE_RATE, np.float32)


@pytest.fixture
def pipeline():
    facts = ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=12.0)
    return Pipeline(NumberingEngine(), Seconds(), facts)


@pytest.fixture
def scheduler(pipeline):
    scheduler = Scheduler(pipeline.engine)
    yield scheduler
    scheduler.close()


@pytest.fixture
def open_session(pipeline, scheduler):
    def start(settings=None, **more):
        return LiveSession(pipeline, settings or LiveSettings(), scheduler.admit(), **more)

    return start


def pcm(samples):
    return (samples * 32_767).astype("<i2").tobytes()


class Listening:
    """A session in a thread, and what it said."""

    def __init__(self, session):
        self.session = session
        self.events = []
        self.error = None
        self.said = threading.Condition()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            self.session.run(self._take)
        except Exception as error:
            self.error = error

    def _take(self, event):
        with self.said:
            self.events.append(event)
            self.said.notify_all()

    def wait_for(self, kind):
        with self.said:
            assert self.said.wait_for(lambda: any(isinstance(each, kind) for each in self.events), timeout=60)

    def play(self, samples):
        """Send sound no faster than it is heard."""
        for first in range(0, len(samples), SAMPLE_RATE // 8):
            self.session.hear(pcm(samples[first : first + SAMPLE_RATE // 8]))
            deadline = time.monotonic() + 60
            while self.session._sound.n_bytes:
                assert time.monotonic() < deadline
                time.sleep(0.002)

    def finish(self):
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()
        return self.events


def committed(events):
    return [word for event in events if isinstance(event, LiveWords) for word in event.committed]


def phrases(events):
    return [event.segment for event in events if isinstance(event, LivePhrase)]


def silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


@pytest.mark.parametrize("policy", [by_alignment, by_agreement])
def test_words_are_committed_while_the_phrase_goes_on_and_never_change(open_session, speech, policy):
    listening = Listening(open_session(policy=policy))
    listening.play(speech[:-8_000])
    assert len(committed(listening.events)) >= 3 and not phrases(listening.events)
    listening.play(silence(2))
    listening.wait_for(LivePhrase)  # the pause ends it, not the end of the stream
    assert listening.thread.is_alive()
    listening.session.end()
    events = listening.finish()
    words = committed(events)
    (phrase,) = phrases(events)
    assert phrase.words == tuple(words) and phrase.text == " ".join(word.text for word in words)
    assert not any("doubt" in word.text for word in words)
    assert all(earlier.end_s <= later.start_s for earlier, later in pairwise(words))
    assert all(event.lag_s >= 0 for event in events) and listening.error is None
    partials = [event for event in events if isinstance(event, LiveWords) and event.partial]
    assert partials and all(event.phrase.text.endswith(event.partial) for event in partials)


def test_the_last_words_are_committed_in_the_pause_before_it_ends_the_phrase(open_session, speech, pipeline):
    listening = Listening(open_session())
    listening.play(np.concatenate([speech, silence(0.1)]))  # 0.6 s of silence
    n_decoded = len(pipeline.engine.options)
    assert pipeline.engine.options[-1].beam_size > 1 and not phrases(listening.events)
    n_committed = len(committed(listening.events))
    listening.play(silence(1))
    assert len(phrases(listening.events)[0].words) == n_committed
    assert len(pipeline.engine.options) == n_decoded  # nothing is left to decode
    listening.session.end()
    listening.finish()


def test_committed_words_are_given_to_the_model_and_not_written_again(open_session, speech, pipeline):
    listening = Listening(open_session())
    listening.play(speech)
    listening.session.end()
    words = committed(listening.finish())
    prefixes = [options.prefix for options in pipeline.engine.options]
    assert prefixes[0] == () and any(prefixes)
    numbers = [int(word.text[1:]) for word in words]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for prefix in filter(None, prefixes):  # it begins with the window, which may begin later
        first = numbers.index(prefix[0])
        assert prefix == tuple(numbers[first : first + len(prefix)])


def test_speech_without_a_pause_is_decoded_in_windows_of_bounded_length(open_session, pipeline, speech):
    listening = Listening(open_session())
    spoken = np.concatenate([speech[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]] * 8)  # 32 s
    listening.play(spoken)
    listening.session.end()
    events = listening.finish()
    said = phrases(events)
    assert len(said) > 1 and [segment.id for segment in said] == list(range(len(said)))
    ends = [n for n, event in enumerate(events) if isinstance(event, LivePhrase)]
    for first, end, segment in zip([0, *ends], ends, said, strict=False):
        assert tuple(committed(events[first:end])) == segment.words
    assert [word for segment in said for word in segment.words] == committed(events)
    assert all(segment.end_s - segment.start_s < 25 for segment in said)
    assert max(pipeline.engine.n_frames) <= 1_000  # of more than 3,000
    assert len(committed(events)) > 32 / WORD_S * 0.8


def test_whoever_sends_all_at_once_gets_every_word_with_few_decodings(open_session, pipeline, speech):
    spoken = np.concatenate([speech, silence(1), speech, *[speech[8_000:-8_000]] * 4, silence(1), speech])
    session = open_session()
    session.hear(pcm(spoken))
    session.end()
    events = Listening(session).finish()
    assert len(phrases(events)) >= 3
    assert [word for segment in phrases(events) for word in segment.words] == committed(events)
    assert len(pipeline.engine.options) < 12


def test_a_phrase_can_be_ended_before_its_pause_and_forgotten(open_session, speech):
    listening = Listening(open_session(parse_live_settings({"pause_s": math.inf})))
    listening.play(speech)
    listening.session.wish("finalise")
    listening.wait_for(LiveDone)
    assert len(phrases(listening.events)) == 1 and isinstance(listening.events[-1], LiveDone)
    n_events = len(listening.events)
    listening.session.hear(pcm(speech[:20_000]))
    listening.session.wish("clear")
    listening.session.hear(pcm(silence(1)))
    listening.session.end()
    later = listening.finish()[n_events:]
    assert not phrases(later) and [each.wish for each in later if isinstance(each, LiveDone)] == ["clear"]


def test_text_that_turns_out_to_be_nothing_is_taken_back(open_session, pipeline, speech):
    listening = Listening(open_session(policy=lambda words, earlier, end_s: 0))
    listening.play(speech[: len(speech) // 2])
    assert any(isinstance(event, LiveWords) and event.partial for event in listening.events)
    pipeline.engine.is_noise = True
    listening.session.end()
    events = listening.finish()
    assert not phrases(events) and events[-1].partial == events[-1].phrase.text == ""


@pytest.mark.parametrize(
    ("sentence", "language"),
    [
        ("मुझे आज बाज़ार जाना है और सब्ज़ी लेनी है", "hi"),
        ("मला आज बाजारात जायचं आहे आणि भाजी घ्यायची आहे", "mr"),
    ],
)
def test_a_language_in_doubt_is_told_by_the_words_of_a_draft_as_in_files(speech, sentence, language):
    pipeline = Pipeline(
        DoubtingEngine(sentence),
        Seconds(),
        ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=12.0),
    )
    settings = parse_live_settings({"language": "auto"})
    with Scheduler(pipeline.engine) as scheduler:
        session = LiveSession(pipeline, settings, scheduler.admit())
        session.hear(pcm(speech))
        session.end()
        (phrase,) = phrases(Listening(session).finish())
    assert phrase.language == language and phrase.words


def test_silence_gives_no_text(open_session, pipeline):
    session = open_session()
    session.hear(pcm(silence(5)))
    session.end()
    assert Listening(session).finish() == [] and not pipeline.engine.options


def test_a_stream_that_ends_with_an_error_says_all_before_it(open_session, speech):
    session = open_session()
    session.hear(pcm(speech))
    session.end(NotReady("the service is shutting down"))
    listening = Listening(session)
    assert phrases(listening.finish())
    assert isinstance(listening.error, NotReady)


def test_speech_over_the_limit_is_said_as_far_as_it_and_refused(open_session, speech):
    session = open_session(max_audio_s=5.5)
    for _ in range(3):
        session.hear(pcm(speech))
    session.end()
    listening = Listening(session)
    said = phrases(listening.finish())
    assert isinstance(listening.error, AudioTooLong)
    assert said and said[-1].end_s <= 5.5


def test_sound_that_is_no_recording_is_an_error(open_session):
    session = open_session(LiveSettings(pcm=None))
    session.hear(b"no header")
    session.end()
    listening = Listening(session)
    assert listening.finish() == [] and isinstance(listening.error, UndecodableAudio)


def test_a_fast_speaker_is_told_to_wait_and_called_when_there_is_room(open_session, speech):
    session = open_session()
    called = threading.Event()
    session.on_room(called.set)
    assert session.hear(pcm(speech))
    assert not session.hear(pcm(np.tile(speech, 5)))
    assert not called.is_set()
    listening = Listening(session)
    assert called.wait(timeout=60)
    session.end()
    listening.finish()


def test_an_abandoned_session_ends_at_once(open_session, speech):
    session = open_session()
    session.hear(pcm(np.tile(speech, 100)))
    session.abandon()
    assert phrases(Listening(session).finish()) == []
