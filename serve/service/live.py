"""Transcribe speech while it is being spoken. Knows no socket and no wire format.

    session = LiveSession(pipeline, settings, ticket)
    session.run(emit)                # in its own thread, until all speech is transcribed
    session.hear(data)               # from another thread: PCM bytes as they arrive
    session.end()

A phrase ends at a pause, or where it fills a window. Its final text comes from the pipeline, once and in
order. Until then, the phrase so far is decoded again about every second. It is also decoded halfway through a
pause that may end it, so that the final text is ready when the pause is long enough. Partial texts are
skipped while the engine falls behind the speaker.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from serve.audio.features import LogMel
from serve.audio.pcm import PcmStream
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import FRAME_SAMPLES, PAD_SAMPLES, Listener, Window, WindowLimits, iter_windows
from serve.engine import DecodingOptions, EngineInput, Hypothesis, LanguageProbs
from serve.engine.scheduler import Ticket
from serve.errors import AudioTooLong, ServiceError
from serve.language import LanguageTrack, in_language, whole_window
from serve.pipeline import Pipeline, is_said
from serve.service.live_settings import LiveSettings
from serve.transcript.events import LiveText, Segment, join_text
from serve.transcript.timeline import Timeline

RUN_SAMPLES = 8 * FRAME_SAMPLES  # processed at a time: a quarter of a second
PARTIAL_EVERY_S = 1.0
"""New speech after which the open phrase is decoded again, in seconds."""

WAITING_S = 20.0
"""Sound that may be queued, in seconds; beyond it the sender gets backpressure."""

CHECK_EVERY_S = 1.0
"""How often a session that waits for sound checks whether its request has ended."""


class LiveSession:
    """One stream of speech. Passed to the pipeline in place of its ticket, to reuse speculative results."""

    def __init__(
        self, pipeline: Pipeline, settings: LiveSettings, ticket: Ticket, *, max_audio_s: float = 1_800.0
    ) -> None:
        """Prepare a session.

        Args:
            settings: The sound's format, and options.
            ticket: The request's ticket; whoever created it closes it.
            max_audio_s: Longest speech accepted, in seconds.

        Raises:
            UnsupportedOption: The served model does not support an option.
        """
        self._pipeline = pipeline
        self._settings = settings
        self._ticket = ticket
        self._max_audio_s = max_audio_s
        self._decoding = pipeline.resolve(settings.options)
        # The next phrase may be minutes away: what was said before must do.
        self._track = LanguageTrack(self._decoding.expected_language, look_ahead=0)
        self._too_long: AudioTooLong | None = None
        self._sound = _SoundQueue(round(WAITING_S * settings.pcm.bytes_per_s))
        self.heard_s = 0.0
        """Sound processed so far, in seconds."""
        self._timeline = Timeline(words=settings.options.word_timestamps)
        self._n_finals = 0
        self._shown: Segment | None = None  # the partial text on display
        self._shown_until = 0  # samples of the recording
        # Speculative results for the last pause that might end a phrase: its text and its languages.
        self._tried: tuple[LogMel, DecodingOptions, Hypothesis] | None = None
        self._detected: tuple[LogMel, LanguageProbs] | None = None
        self._tried_until = 0  # samples of the recording
        self._emit: Callable[[LiveText], None] = lambda text: None

    def hear(self, data: bytes) -> bool:
        """Queue PCM bytes, from any thread; False means: send no more before `on_room` calls."""
        return self._sound.put(data)

    def on_room(self, call: Callable[[], None]) -> None:
        """Set the callback, called from the session's thread, that ends backpressure."""
        self._sound.on_room = call

    def end(self, error: ServiceError | None = None) -> None:
        """End the input. `run` transcribes what was queued, and then raises the error, if any."""
        self._sound.end(error)

    def abandon(self) -> None:
        """End the session, and drop what was queued."""
        self._sound.abandon()
        self._ticket.cancel()

    def run(self, emit: Callable[[LiveText], None]) -> None:
        """Transcribe until the input ends.

        Args:
            emit: Called with each text, in order.

        Raises:
            ServiceError: The engine failed, the ticket was cancelled, the speech is too long, or the input
                ended with an error.
        """
        self._emit = emit
        recording = Recording(self._blocks())
        events = self._pipeline.transcribe(
            recording, self._settings.options, self, self._cut, self._timeline, self._track
        )
        for event in events:
            if isinstance(event, Segment):
                self._n_finals, self._shown = event.id + 1, None
                emit(LiveText(segment=event, is_final=True))
        self._withdraw()
        if (error := self._too_long or self._sound.error) is not None:
            raise error

    def _blocks(self) -> Iterator[Samples]:
        stream = PcmStream(self._settings.pcm)
        max_samples = round(self._max_audio_s * SAMPLE_RATE)
        run_bytes = round(RUN_SAMPLES / SAMPLE_RATE * self._settings.pcm.bytes_per_s)
        while (data := self._sound.take(run_bytes, self._ticket.check)) is not None:
            samples = stream.push(data)
            max_samples -= len(samples)
            if max_samples < 0:
                self._too_long = AudioTooLong(self._max_audio_s, self._max_audio_s)
                self._sound.abandon()
                break
            self.heard_s += len(samples) / SAMPLE_RATE
            yield samples[None]
        yield stream.flush()[None]

    def _cut(self, blocks: Iterable[Samples], limits: WindowLimits) -> Iterator[tuple[Window, Samples]]:
        # The detector widens speech at both ends of a pause, and the limits count what remains.
        gap_s = max(0.0, self._settings.pause_s - 2 * PAD_SAMPLES / SAMPLE_RATE)
        limits = replace(limits, max_gap_s=min(self._pipeline.facts.max_gap_s, gap_s))
        return iter_windows(blocks, limits, run_samples=RUN_SAMPLES, on_run=self._show)

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        """Decode windows one by one, since the next may be minutes away; reuse a speculative result."""
        for window in inputs:
            if self._tried is not None and window.options == self._tried[1]:
                log_mel, _, hypothesis = self._tried
                if np.array_equal(window.log_mel, log_mel):
                    yield hypothesis
                    continue
            yield from self._ticket.decode([window])

    def detect_languages(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        """Return the language probabilities of a window; reuse a speculative result."""
        (window,) = windows
        if self._detected is None or not np.array_equal(window.log_mel, self._detected[0]):
            self._detected = window.log_mel, self._ticket.detect_languages(windows)[0]
        return [self._detected[1]]

    def draft(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        """Decode windows once, to tell their language."""
        return self._ticket.draft(windows)

    def _show(self, listeners: Sequence[Listener]) -> None:
        """Emit the open phrase's partial text, if it has grown enough and the session keeps up."""
        (listener,) = listeners
        found = listener.open_window()
        if found is None:
            self._withdraw()
            return
        window, samples = found
        n_new = window.end - max(window.start, self._shown_until)
        pause_s = (listener.n_heard - window.end) / SAMPLE_RATE
        may_be_over = pause_s > self._settings.pause_s / 2 and window.end > self._tried_until
        waiting_s = self._sound.n_bytes / self._settings.pcm.bytes_per_s
        is_due = may_be_over or n_new >= PARTIAL_EVERY_S * SAMPLE_RATE
        if not is_due or waiting_s > PARTIAL_EVERY_S:
            return
        self._shown_until = window.end
        quickly = replace(self._decoding, beam_size=1, word_timestamps=False)
        decoding = self._decoding if may_be_over else quickly
        given, language_prob = self._pipeline.engine_input(window, samples, decoding), None
        if decoding.language is None:
            whole = whole_window(given)
            (probs,) = self.detect_languages([whole])
            guessed = self._track.guess(probs, window.speech_samples / SAMPLE_RATE)
            given, language_prob = in_language(given, whole, guessed.language), guessed.probability
        (hypothesis,) = self._ticket.decode([given])
        if may_be_over:
            self._tried, self._tried_until = (given.log_mel, given.options, hypothesis), window.end
        hypothesis = replace(hypothesis, language_prob=language_prob)
        segments = self._timeline.preview(window, hypothesis if is_said(window, hypothesis) else None)
        if not segments:
            self._withdraw()
            return
        segment = replace(
            segments[0],
            id=self._n_finals,
            end_s=segments[-1].end_s,
            text=join_text(each.text for each in segments),
        )
        if self._shown is None or segment.text != self._shown.text:
            self._shown = segment
            self._emit(LiveText(segment=segment, is_final=False))

    def _withdraw(self) -> None:
        """Withdraw the partial text on display: it turned out not to be speech."""
        if self._shown is not None:
            self._emit(LiveText(segment=replace(self._shown, text=""), is_final=False))
            self._shown = None


class _SoundQueue:
    """A bounded byte queue between two threads."""

    def __init__(self, max_bytes: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.error: ServiceError | None = None
        """The error that the input ended with."""
        self._max_bytes = max_bytes
        self._pieces: deque[bytes] = deque()
        self.n_bytes = 0
        """Bytes queued."""
        self._is_over = False
        self._changed = threading.Condition()

    def put(self, data: bytes) -> bool:
        with self._changed:
            if not self._is_over:
                self._pieces.append(data)
                self.n_bytes += len(data)
                self._changed.notify()
            return self.n_bytes < self._max_bytes

    def take(self, max_bytes: int, check: Callable[[], None]) -> bytes | None:
        """Wait for bytes; None at the end. Calls `check`, which may raise, about every second."""
        check()
        with self._changed:
            while not self._pieces and not self._is_over:
                self._changed.wait(CHECK_EVERY_S)
                check()
            data = self._pieces.popleft() if self._pieces else None
            if data is not None and len(data) > max_bytes:
                self._pieces.appendleft(data[max_bytes:])
                data = data[:max_bytes]
            self.n_bytes -= len(data or b"")
            has_room = self.n_bytes < self._max_bytes
        if has_room:
            self.on_room()
        return data

    def end(self, error: ServiceError | None) -> None:
        with self._changed:
            if not self._is_over:
                self._is_over, self.error = True, error
            self._changed.notify()

    def abandon(self) -> None:
        self.end(None)
        with self._changed:
            self._pieces.clear()
            self.n_bytes = 0
        self.on_room()
