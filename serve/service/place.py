"""A request's place in the service, from its admission to its end: a recording in, events out.

    with service.admit() as place:
        place.choose(options)
        place.transcribe(place.opening(audio, options), options, emit)      # in a thread of its own

Knows no event loop and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

from serve.engine.scheduler import Ticket
from serve.errors import AudioTooLong
from serve.options import TranscriptionOptions
from serve.transcript.events import End, Event

if TYPE_CHECKING:  # their imports take seconds, which the loading thread spends while /ping already answers
    from serve.audio.recording import Recording
    from serve.audio.samples import Samples
    from serve.pipeline import Pipeline
    from serve.service.adapters import Adapters, Held
    from serve.service.sessions import Session


class Place(ExitStack):
    """An admitted request: its ticket, and the adapter it holds. Closing it frees both."""

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
        """Only `Service.admit` makes places.

        Args:
            ticket: The scheduler's.
            adapters: Those of the base model that decodes.
            held: What serves a request that names no adapter.
            max_audio_s: Longest recording.
            audio_turns: Held while a block of a recording is decoded.
            model: Name of the model of a multi-model service, whose adapter is the only one.
            session: The session that the request belongs to; it goes on from the text.
        """
        super().__init__()
        self.ticket = ticket
        self.session = session
        self._adapters = adapters
        self._held = held
        self._max_audio_s = max_audio_s
        self._audio_turns = audio_turns
        self._model = model
        self.callback(lambda: self._held.close())
        self.callback(ticket.close)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of the chosen adapter."""
        return self._held.pipeline

    def choose(self, options: TranscriptionOptions) -> None:
        """Hold the adapter that options name, and refuse what it cannot do.

        Raises:
            UnsupportedOption: Names the option.
        """
        if self._model is None:
            held = self._adapters.hold(options.adapter, self.ticket.check)
            self._held.close()
            self._held = held
        self.pipeline.resolve(options)

    def opening(
        self, audio: bytes | Samples, options: TranscriptionOptions
    ) -> AbstractContextManager[Recording]:
        """Return a context that decodes a recording: a file, or samples at 16 kHz.

        Raises:
            AudioTooLong: Samples last longer than recordings may.
        """
        from serve.audio.decode import AudioLimits, open_audio
        from serve.audio.recording import Recording

        if isinstance(audio, bytes):
            limits = AudioLimits(max_audio_s=self._max_audio_s)
            return open_audio(audio, limits, split=options.channels == "split", track=options.track)
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
        """Decode and transcribe a recording in the running thread.

        A recording is decoded as far as the pipeline has come; faults in its first 30 s come before the first
        event.

        Args:
            opening: What `opening` returned.
            options: What is asked for, as it was chosen.
            emit: Called with each of the pipeline's events.

        Raises:
            ServiceError: The recording is not usable, or the transcription broke off.
        """
        with ExitStack() as stack:
            with self._audio_turns:
                recording = stack.enter_context(opening)
            recording = _in_turn(recording, self._audio_turns, self.ticket)
            for event in self.pipeline.transcribe(recording, options, self.ticket):
                if self.session is not None and isinstance(event, End):
                    self.session.last_text = event.transcript.text
                emit(event)


def _in_turn(recording: Recording, turns: AbstractContextManager[object], ticket: Ticket) -> Recording:
    """Return the recording, decoded in turn with others, and no further than its request lives."""

    def in_turn(unread: Iterator[Samples]) -> Iterator[Samples]:
        while True:
            ticket.check()
            with turns:
                block = next(unread, None)
            if block is None:
                return
            yield block

    return recording.read_by(in_turn)
