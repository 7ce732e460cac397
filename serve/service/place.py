"""A request's place in the service, from admission to its end: a recording in, events out.

    with service.admit() as place:
        place.choose(options)
        place.transcribe(place.opening(audio, options), options, emit)      # in its own thread

Knows no event loop and no HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

from serve.audio.samples import SAMPLE_RATE
from serve.engine import tracing
from serve.engine.scheduling.ticket import Ticket
from serve.errors import AudioTooLong
from serve.options import TranscriptionOptions
from serve.transcript.events import End, Event

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them while /ping answers
    from serve.audio.recording import Recording
    from serve.audio.samples import Samples
    from serve.pipeline import Pipeline
    from serve.service.adapters import Adapters, Held
    from serve.service.sessions import Session


class Place(ExitStack):
    """An admitted request: its ticket, and a reference to its adapter. Closing it releases both."""

    def __init__(
        self,
        ticket: Ticket,
        adapters: Adapters,
        held: Held,
        *,
        max_audio_s: float,
        audio_turns: AbstractContextManager[object],
        model: str | None = None,
        session: Session | None = None,
    ) -> None:
        """Made by `Service.admit` only.

        Args:
            adapters: The adapters of the base model that decodes.
            held: The reference for requests that name no adapter.
            max_audio_s: Longest recording accepted, in seconds.
            audio_turns: Held while a block of a recording is decoded.
            model: Name of the model in a multi-model service; its adapter cannot be changed.
            session: The session that the request belongs to; updated with the text.
        """
        super().__init__()
        self.ticket = ticket
        self.session = session
        self._adapters = adapters
        self._held = held
        self._max_audio_s = max_audio_s
        self._audio_turns = audio_turns
        self._model = model
        self._holding = threading.Lock()  # a client may leave while the adapter is chosen in another thread
        self.callback(self._release)
        self.callback(ticket.close)  # before the adapter is released, and from then on none is held

    @property
    def pipeline(self) -> Pipeline:
        return self._held.pipeline

    def choose(self, options: TranscriptionOptions) -> None:
        """Hold the adapter that the options name, and check that it supports them. May wait for the engine.

        Raises:
            UnsupportedOption: An option is not supported; the error names it.
            ServiceError: The request has ended.
        """
        if self._model is None:
            held = self._adapters.hold(options.adapter, self.ticket.check)
            with self._holding:
                if self.ticket.error is None:
                    held, self._held = self._held, held
            held.close()  # the one before; the new one where the request has ended
            self.ticket.check()
        self.pipeline.resolve(options)

    def _release(self) -> None:
        with self._holding:
            self._held.close()

    def opening(
        self, audio: bytes | Samples, options: TranscriptionOptions
    ) -> AbstractContextManager[Recording]:
        """Return a context that decodes a recording: a file's bytes, or samples at 16 kHz.

        Raises:
            AudioTooLong: The samples last longer than `max_audio_s`.
        """
        from serve.audio.decode import AudioLimits, open_audio
        from serve.audio.recording import Recording

        if isinstance(audio, bytes):
            limits = AudioLimits(max_audio_s=self._max_audio_s)
            is_split, check = options.channels == "split", self.ticket.check
            return open_audio(audio, limits, split=is_split, track=options.track, check=check)
        recording = Recording.of(audio)
        assert recording.duration_s is not None, "it is in memory"
        if recording.duration_s > self._max_audio_s:
            raise AudioTooLong(recording.duration_s, self._max_audio_s)
        return nullcontext(recording)

    def transcribe(
        self,
        opening: AbstractContextManager[Recording],
        options: TranscriptionOptions,
        emit: Callable[[Event], None],
    ) -> None:
        """Decode and transcribe a recording in the calling thread.

        Audio is decoded as the pipeline needs it. Errors in its first 30 s are raised before the first event.

        Args:
            opening: Returned by `opening`.
            options: The options that were given to `choose`.
            emit: Called with each event of the pipeline.

        Raises:
            ServiceError: The recording is not usable, or the transcription was broken off.
        """
        with ExitStack() as stack:
            with self._audio_turns:
                self.ticket.check()  # the client may have left while others had their turns
                with tracing.span("decode"):
                    recording = stack.enter_context(opening)
            if recording.duration_s is not None:
                self.ticket.expect(recording.duration_s)
            recording = _in_turn(recording, self._audio_turns, self.ticket)
            for event in self.pipeline.transcribe(recording, options, self.ticket):
                if self.session is not None and isinstance(event, End):
                    self.session.last_text = event.transcript.text
                emit(event)


def _in_turn(recording: Recording, turns: AbstractContextManager[object], ticket: Ticket) -> Recording:
    """Limit concurrent decoding by `turns`, and stop it when the request ends."""

    def in_turn(unread: Iterator[Samples]) -> Iterator[Samples]:
        while True:
            ticket.check()
            with turns, tracing.span("decode"):
                block = next(unread, None)
            if block is None:
                return
            if ticket.demand.left_s is not None:
                ticket.demand.left_s = max(0.0, ticket.demand.left_s - block.shape[1] / SAMPLE_RATE)
            yield block

    return recording.read_by(in_turn)
