"""A live session without a socket: text that grows, then stays; and the same windows as for a whole file."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import WindowLimits, iter_windows
from serve.engine import CPU_BATCH, Hypothesis
from serve.engine.scheduler import Scheduler
from serve.errors import AudioTooLong, NotReady
from serve.pipeline import Pipeline, ServingFacts
from serve.service.live import LiveSession
from serve.service.live.settings import LiveSettings, parse_live_settings


class CountingEngine:
    """Says how many tenths of a second the window has."""

    languages = frozenset({"mr"})
    has_adapter = True
    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self):
        self.is_noise = False
        self.counts_calls = False
        self.n_calls = 0

    def unsupported(self, options):
        return None

    def kind(self, window):
        return window.options.adapter, window.n_frames

    def decode(self, windows):
        self.n_calls += 1
        probs = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "tokens": (1,)}
        text = "" if self.is_noise else f"call {self.n_calls}" if self.counts_calls else "{}"
        return [
            Hypothesis(text=text.format(window.n_frames // 10), language="mr", **probs) for window in windows
        ]

    def close(self): ...


class Frames:
    def log_mel(self, samples, window_s):
        return np.zeros((80, round(window_s * 100)), np.float32)


@pytest.fixture
def pipeline():
    facts = ServingFacts(adapter_name="tiny-mr", language="mr", dynamic=True, max_window_s=12.0)
    return Pipeline(CountingEngine(), Frames(), facts)


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
        self.texts = []
        self.error = None
        self.said = threading.Condition()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            self.session.run(self._take)
        except Exception as error:
            self.error = error

    def _take(self, text):
        with self.said:
            self.texts.append(text)
            self.said.notify_all()

    def wait_for(self, condition):
        with self.said:
            assert self.said.wait_for(lambda: any(condition(text) for text in self.texts), timeout=60)

    def wait_until_heard(self, n_samples):
        deadline = time.monotonic() + 60
        while self.session.heard_s * SAMPLE_RATE <= n_samples or self.session._sound.n_bytes:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def finish(self):
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()
        return self.texts


def finals(texts):
    return [text.segment for text in texts if text.is_final]


def test_a_phrase_is_said_while_it_is_spoken_and_then_once_for_good(open_session, speech):
    listening = Listening(open_session())
    half = len(speech) // 2
    listening.session.hear(pcm(speech[:half]))
    listening.wait_for(lambda text: not text.is_final)
    listening.session.hear(pcm(speech[half:]))
    listening.session.hear(pcm(np.zeros(2 * SAMPLE_RATE)))
    listening.wait_for(lambda text: text.is_final)  # the pause ends it, not the end of the stream
    assert listening.thread.is_alive()
    listening.session.end()
    texts = listening.finish()
    assert [text.is_final for text in texts][-1] and len(finals(texts)) == 1
    first, last = texts[0].segment, texts[-1].segment
    assert first.id == last.id == 0 and first.start_s == last.start_s and first.end_s < last.end_s
    assert listening.error is None


def test_what_waits_at_a_forced_cut_stays_in_sight_until_it_is_final(open_session, pipeline, speech):
    pipeline.engine.counts_calls = True
    listening = Listening(open_session())
    spoken = np.concatenate([speech[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]] * 5)  # 20 s without a pause
    for first in range(0, len(spoken), SAMPLE_RATE // 2):
        listening.session.hear(pcm(spoken[first : first + SAMPLE_RATE // 2]))
        listening.wait_until_heard(first)
    listening.session.end()
    texts = listening.finish()
    assert listening.error is None
    said = finals(texts)
    assert len(said) > 1 and [segment.id for segment in said] == list(range(len(said)))
    assert all(earlier.end_s <= later.start_s for earlier, later in pairwise(said))
    n_shown = [index for index, text in enumerate(texts) if not text.is_final and text.segment.end_s > 13]
    assert n_shown, "what is said behind the cut is shown before it is final"
    assert texts[n_shown[0]].segment.start_s == said[0].start_s
    assert texts[n_shown[0]].segment.text.startswith(said[0].text)


def test_what_was_decoded_in_the_pause_need_not_be_decoded_at_its_end(open_session, pipeline, speech):
    pipeline.engine.counts_calls = True
    listening = Listening(open_session())
    spoken = np.concatenate([speech, np.zeros(2 * SAMPLE_RATE, np.float32)])
    for first in range(0, len(spoken), SAMPLE_RATE // 2):  # no faster than it is heard
        listening.session.hear(pcm(spoken[first : first + SAMPLE_RATE // 2]))
        listening.wait_until_heard(first)
    listening.session.end()
    *_, shown, final = listening.finish()
    assert (shown.is_final, final.is_final) == (False, True)
    assert shown.segment.text == final.segment.text


def test_whoever_sends_all_at_once_gets_the_final_text_of_the_file(open_session, pipeline, speech):
    long = np.concatenate([speech, speech, np.zeros(2 * SAMPLE_RATE, np.float32), speech])
    session = open_session(parse_live_settings({"pause_s": 1.9}))  # what ends a window of a file
    session.hear(pcm(long))
    session.end()
    texts = Listening(session).finish()
    of_file = [event for event in pipeline.transcribe(long) if hasattr(event, "avg_logprob")]
    heard = finals(texts)
    assert [(each.id, each.text) for each in heard] == [(each.id, each.text) for each in of_file]
    np.testing.assert_allclose([each.start_s for each in heard], [each.start_s for each in of_file], atol=0.1)
    assert len(heard) > 1 and len(texts) - len(heard) <= len(heard)


def test_text_that_turns_out_to_be_nothing_is_taken_back(open_session, pipeline, speech):
    listening = Listening(open_session())
    listening.session.hear(pcm(speech[: len(speech) // 2]))
    listening.wait_for(lambda text: text.segment.text)
    pipeline.engine.is_noise = True
    listening.session.end()
    texts = listening.finish()
    assert not finals(texts) and texts[-1].segment.text == ""


def test_silence_gives_no_text(open_session):
    session = open_session()
    session.hear(pcm(np.zeros(5 * SAMPLE_RATE)))
    session.end()
    assert Listening(session).finish() == []


def test_a_stream_that_ends_with_an_error_says_all_before_it(open_session, speech):
    session = open_session()
    session.hear(pcm(speech))
    session.end(NotReady("the service is shutting down"))
    listening = Listening(session)
    assert finals(listening.finish())
    assert isinstance(listening.error, NotReady)


def test_speech_over_the_limit_is_said_as_far_as_it_and_refused(open_session, speech):
    session = open_session(max_audio_s=5.5)
    for _ in range(3):
        session.hear(pcm(speech))
    session.end()
    listening = Listening(session)
    said = finals(listening.finish())
    assert isinstance(listening.error, AudioTooLong)
    assert said and said[-1].end_s <= 5.5


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
    assert finals(Listening(session).finish()) == []


def test_short_runs_find_the_windows_of_long_ones(speech):
    rng = np.random.default_rng(1)
    pauses = [np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (0.3, 2.5, 0.1, 1.0, 4.0)]
    long = np.concatenate([piece for pause in pauses for piece in (speech, pause)])
    long += rng.normal(0, 1e-4, len(long)).astype(np.float32)
    limits = WindowLimits(max_window_s=9.0, max_packed_s=9.0, max_first_window_s=5.0, max_gap_s=1.0)
    opened = []

    def look(listeners):
        if (found := listeners[0].open_window()) is not None:
            opened.append(found)

    whole = [window for window, _ in iter_windows([long[None]], limits)]
    live = [window for window, _ in iter_windows([long[None]], limits, run_samples=4_096, on_run=look)]
    assert len(whole) > 3
    np.testing.assert_allclose([w.start for w in live], [w.start for w in whole], atol=SAMPLE_RATE // 10)
    np.testing.assert_allclose([w.end for w in live], [w.end for w in whole], atol=SAMPLE_RATE // 10)
    for window, samples in opened:
        assert 0 < window.end - window.start == len(samples) <= 9.0 * SAMPLE_RATE
        np.testing.assert_array_equal(samples, long[window.start : window.end])
        assert any(closed.start == window.start for closed in live)
