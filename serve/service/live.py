"""Speech while it is being spoken -> text while it is being spoken. Knows no socket and no wire format.

    session = LiveSession(pipeline, settings, ticket)
    session.run(emit)                # in a thread of its own: until the speech ends and all of it is said
    session.hear(data)               # from another: bytes as they come
    session.end()

A phrase ends with a pause, or where no more fits into a window. Its final text is that of the pipeline, once
and in order. Until then the phrase so far is decoded anew about every second, and in the middle of a pause
that may end it, so that its final text is there when it does; but only as long as the engine keeps up: a
speaker who is ahead of it gets final text alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from serve.audio.pcm import PcmStream
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import FRAME_SAMPLES, PAD_SAMPLES, Listener, Window, WindowLimits, iter_windows
from serve.engine import DecodingOptions, EngineInput, Hypothesis, LogMel
from serve.engine.scheduler import Ticket
from serve.errors import AudioTooLong, ServiceError
from serve.pipeline import Pipeline, is_said
from serve.service.live_settings import LiveSettings
from serve.transcript.events import LiveText, Segment, join_text
from serve.transcript.timeline import Timeline

RUN_SAMPLES = 8 * FRAME_SAMPLES  # heard at a time: a quarter of a second
PARTIAL_EVERY_S = 1.0
"""New speech that is worth decoding a phrase anew for."""

WAITING_S = 20.0
"""Sound that may wait to be heard; whoever sends faster is slowed down."""

CHECK_EVERY_S = 1.0
"""How often a session that waits for sound looks whether there is any use in waiting."""


class LiveSession:
    """One stream of speech."""

    def __init__(
        self, pipeline: Pipeline, settings: LiveSettings, ticket: Ticket, *, max_audio_s: float = 1_800.0
    ) -> None:
        """Prepare a session.

        Args:
            pipeline: What hears.
            settings: What is spoken.
            ticket: Its place; whoever gave it closes it.
            max_audio_s: Longest speech.

        Raises:
            UnsupportedOption: The served model cannot do what is asked.
        """
        self._pipeline = pipeline
        self._settings = settings
        self._ticket = ticket
        self._max_audio_s = max_audio_s
        self._decoding = pipeline.resolve(settings.options)
        self._too_long: AudioTooLong | None = None
        self._sound = _SoundQueue(round(WAITING_S * settings.pcm.bytes_per_s))
        self.heard_s = 0.0
        """Sound that was listened to."""
        self._timeline = Timeline(words=settings.options.word_timestamps)
        self._n_finals = 0
        self._shown: Segment | None = None  # text that is not final, and was not replaced
        self._shown_until = 0  # samples of the recording
        # What was heard in the last pause that might end a phrase, and what language it was in.
        self._tried: tuple[LogMel, DecodingOptions, Hypothesis] | None = None
        self._detected: tuple[LogMel, tuple[str, float]] | None = None
        self._tried_until = 0  # samples of the recording
        self._emit: Callable[[LiveText], None] = lambda text: None

    def hear(self, data: bytes) -> bool:
        """Take sound as it comes, from any thread; say whether more should come before `on_room` calls."""
        return self._sound.put(data)

    def on_room(self, call: Callable[[], None]) -> None:
        """Have `call` called, from the session's thread, whenever more sound may come."""
        self._sound.on_room = call

    def end(self, error: ServiceError | None = None) -> None:
        """Take no more sound. What has come is said to its end, and then `run` raises the error."""
        self._sound.end(error)

    def abandon(self) -> None:
        """End, and forget what has come: nobody will hear of it."""
        self._sound.abandon()
        self._ticket.cancel()

    def run(self, emit: Callable[[LiveText], None]) -> None:
        """Transcribe until the end.

        Args:
            emit: Called with each text, in order.

        Raises:
            ServiceError: The engine failed, the ticket was cancelled, the speech is too long, or its end was
                an error.
        """
        self._emit = emit
        recording = Recording(self._blocks())
        events = self._pipeline.transcribe(
            recording, self._settings.options, self, self._cut, timeline=self._timeline
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
        # The detector widens both ends of a pause, which the limits do not know of.
        gap_s = max(0.0, self._settings.pause_s - 2 * PAD_SAMPLES / SAMPLE_RATE)
        limits = replace(limits, max_gap_s=min(limits.max_gap_s, gap_s))
        return iter_windows(blocks, limits, run_samples=RUN_SAMPLES, on_run=self._show)

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        """Decode windows one by one, for the next may be minutes away, unless that is done already."""
        for window in inputs:
            if self._tried is not None and window.options == self._tried[1]:
                log_mel, _, hypothesis = self._tried
                if np.array_equal(window.log_mel, log_mel):
                    yield hypothesis
                    continue
            yield from self._ticket.decode([window])

    def detect_language(self, window: EngineInput) -> tuple[str, float]:
        """Return the language of a window, unless that is known already."""
        if self._detected is None or not np.array_equal(window.log_mel, self._detected[0]):
            self._detected = window.log_mel, self._ticket.detect_language(window)
        return self._detected[1]

    def _show(self, listeners: Sequence[Listener]) -> None:
        """Say what the open phrase seems to be so far, if that is worth it and nothing waits to be heard."""
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
        given, language_prob = self._pipeline.engine_input(window, samples, decoding, self)
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
        """Take back a text that turned out to be nothing."""
        if self._shown is not None:
            self._emit(LiveText(segment=replace(self._shown, text=""), is_final=False))
            self._shown = None


class _SoundQueue:
    """Bytes on their way from one thread to another."""

    def __init__(self, max_bytes: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.error: ServiceError | None = None
        """Why it ended, where that is a fault."""
        self._max_bytes = max_bytes
        self._pieces: deque[bytes] = deque()
        self.n_bytes = 0
        """Waiting."""
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
        """Wait for bytes; None at the end. `check` may raise now and then."""
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
