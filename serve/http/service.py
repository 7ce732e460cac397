"""The life of the service (loading, ready, draining, dead) and a request's way to the pipeline."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, ParamSpec, TypeVar

import structlog

from serve.errors import AudioTooLong, NotReady, ServiceError, StartupError
from serve.options import TranscriptionOptions
from serve.scheduler import BatchLimits, Queue, Scheduler, Ticket, Totals
from serve.sessions import Sessions
from serve.settings import Settings
from serve.transcript import Event

if TYPE_CHECKING:  # their imports take seconds, which the loading thread spends while /ping already answers
    from serve.features import Samples
    from serve.hooks import Hooks
    from serve.live import LiveSession
    from serve.live_settings import LiveSettings
    from serve.pipeline import Pipeline
    from serve.recording import Recording

LAST_WORDS_S = 1.0
"""Time that broken off requests have to tell their clients why."""

State = Literal["loading", "ready", "draining", "dead"]

Load = Callable[[Settings], "Pipeline"]
"""Loads what is served; `load_from_settings` does it in earnest."""

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger(__name__)


def load_from_settings(settings: Settings) -> Pipeline:
    """Load what the settings name.

    Raises:
        StartupError: One sentence says what to change.
    """
    from serve.loading import load_pipeline

    return load_pipeline(
        settings.model_dir,
        settings.base_model,
        engine=settings.engine,
        quantization=settings.quantization,
        n_threads=settings.n_threads,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
    )


@dataclass(frozen=True)
class _Arrived(Generic[T]):
    """Something that came out of a thread."""

    value: T


class Service:
    """One loaded model and everyone who waits for it."""

    def __init__(self, settings: Settings, load: Load = load_from_settings) -> None:
        """Prepare; `start` does the work."""
        self.settings = settings
        self.state: State = "loading"
        self.failure: StartupError | None = None
        """Why the model could not be loaded."""
        self.sessions = Sessions(max_sessions=settings.max_sessions, lifetime_s=settings.session_lifetime_s)
        self.hooks: Hooks | None = None
        """The functions of the artifact's own code, once it is loaded."""
        self._load = load
        self._pipeline: Pipeline | None = None
        self._scheduler: Scheduler | None = None
        self._workers = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="request")
        self._audio_workers = ThreadPoolExecutor(settings.n_audio_workers, thread_name_prefix="audio")
        self._live: set[LiveSession] = set()
        self._audio_turns = threading.BoundedSemaphore(settings.n_audio_workers)

    @property
    def n_admitted(self) -> int:
        """Requests being worked on."""
        return self._scheduler.n_admitted if self._scheduler else 0

    @property
    def queue(self) -> Queue:
        """Figures of the scheduler's queue; all zero while the model loads."""
        return self._scheduler.queue() if self._scheduler else Queue()

    @property
    def totals(self) -> Totals:
        """What the engine has done."""
        return self._scheduler.totals() if self._scheduler else Totals()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load the model in a thread, so that the port is bound and /ping answers meanwhile.

        `on_failure` is called from that thread when the model cannot be loaded.
        """

        def load() -> None:
            started = time.monotonic()
            try:
                pipeline = self._load(self.settings)
                hooks = self._load_hooks()
                scheduler = self._scheduler_of(pipeline)
                _warm_up(pipeline, scheduler)
            except Exception as error:
                self.state = "dead"
                self.failure = (
                    error if isinstance(error, StartupError) else StartupError("the model cannot be loaded")
                )
                _log.error(
                    "model.failed", error=str(self.failure), exc_info=not isinstance(error, StartupError)
                )
                on_failure()
                return
            self._pipeline, self._scheduler, self.hooks = pipeline, scheduler, hooks
            if self.state == "loading":
                self.state = "ready"
            facts = pipeline.facts
            seconds = round(time.monotonic() - started, 1)
            _log.info("model.ready", adapter=facts.adapter_name, language=facts.language, load_s=seconds)

            from serve.audio import load_resampler

            load_resampler()  # behind the ready sign: only recordings of other rates than 16 kHz wait for it

        threading.Thread(target=load, name="load", daemon=True).start()

    def check_ready(self) -> None:
        """Raise unless requests can be worked on.

        Raises:
            NotReady: The model is loading, the service is draining, or the engine no longer answers.
        """
        if (
            self.state == "ready"
            and self._scheduler
            and self._scheduler.is_alive(self.settings.engine_timeout_s)
        ):
            return
        reasons = {
            "loading": "the model is loading",
            "draining": "the service is shutting down",
            "dead": "the model could not be loaded",
            "ready": "the engine does not answer",
        }
        raise NotReady(reasons[self.state])

    def admit(self) -> Ticket:
        """Give a request its place, before any work is done for it.

        Raises:
            NotReady, Overloaded: There is none.
        """
        self.check_ready()
        assert self._scheduler is not None
        return self._scheduler.admit()

    def check_options(self, options: TranscriptionOptions) -> None:
        """Refuse what the served model cannot do.

        Raises:
            UnsupportedOption: Names the option.
        """
        assert self._pipeline is not None
        self._pipeline.resolve(options)

    async def in_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what takes long off the event loop; at most `n_audio_workers` at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._audio_workers, partial(work, *args, **kwargs))

    async def transcribe(
        self, audio: bytes | Samples, options: TranscriptionOptions, ticket: Ticket
    ) -> AsyncIterator[Event]:
        """Decode a recording and yield the pipeline's events as they come.

        Decoder and pipeline run in a thread of their own, and hand events over to the event loop. A recording
        is decoded as far as the pipeline has come; faults in its first 30 s come before the first event.

        Raises:
            ServiceError: The recording is not usable, or the transcription broke off.
        """
        events = self.events_of(audio, options, ticket)
        del audio  # the decoder alone holds it, and only for as long as it needs it

        def work(emit: Callable[[Event], None]) -> None:
            for event in events:
                emit(event)

        async for event in self.in_thread(work):
            yield event

    def events_of(
        self, audio: bytes | Samples, options: TranscriptionOptions, ticket: Ticket
    ) -> Iterator[Event]:
        """Return the events of a recording, for one of the request threads to pull.

        Raises:
            AudioTooLong: Samples last longer than recordings may.
        """
        from serve.audio import AudioLimits, open_audio
        from serve.recording import Recording

        assert self._pipeline is not None
        opening: AbstractContextManager[Recording]
        if isinstance(audio, bytes):
            limits = AudioLimits(max_audio_s=self.settings.max_audio_s)
            opening = open_audio(audio, limits, split=options.channels == "split")
        else:
            recording = Recording.of(audio)
            assert recording.duration_s is not None, "it is in memory"
            if recording.duration_s > self.settings.max_audio_s:
                raise AudioTooLong(recording.duration_s, self.settings.max_audio_s)
            opening = nullcontext(recording)
        return self._pull(self._pipeline, opening, options, ticket)

    def _pull(
        self,
        pipeline: Pipeline,
        opening: AbstractContextManager[Recording],
        options: TranscriptionOptions,
        ticket: Ticket,
    ) -> Iterator[Event]:
        with ExitStack() as stack:
            with self._audio_turns:
                recording = stack.enter_context(opening)
            recording = _in_turn(recording, self._audio_turns, ticket)
            yield from pipeline.transcribe(recording, options, ticket.decode)

    @contextmanager
    def live_session(self, settings: LiveSettings, ticket: Ticket) -> Iterator[LiveSession]:
        """Open a live stream, which is ended in time when the service drains.

        Raises:
            UnsupportedOption: The served model cannot do what is asked.
        """
        from serve.live import LiveSession

        assert self._pipeline is not None
        session = LiveSession(self._pipeline, settings, ticket, max_audio_s=self.settings.live_max_s)
        self._live.add(session)
        try:
            yield session
        finally:
            self._live.remove(session)

    async def in_request_thread(self, work: Callable[[], T]) -> T:
        """Run what may take as long as its request; there is a thread for each that is admitted."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def in_thread(self, work: Callable[[Callable[[T], None]], None]) -> AsyncIterator[T]:
        """Do work in a thread of its own, and yield what it emits, as it comes.

        Raises:
            Exception: What the work raises.
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[_Arrived[T] | BaseException | None] = asyncio.Queue()

        def hand_over(item: _Arrived[T] | BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        def run() -> None:
            try:
                work(lambda item: hand_over(_Arrived(item)))
            except BaseException as error:
                hand_over(error)
            else:
                hand_over(None)

        self._workers.submit(run)
        while (item := await arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.value

    async def drain(self) -> None:
        """Refuse new requests, and give running ones their time before breaking them off."""
        self.state = "draining"
        _log.info("service.draining", n_requests=self.n_admitted)
        reason = NotReady("the service is shutting down")
        await self._wait_for_requests(self.settings.drain_s / 2)
        for session in self._live:  # what was said so far is still transcribed
            session.end(reason)
        await self._wait_for_requests(self.settings.drain_s / 2)
        if self._scheduler is not None and self.n_admitted:
            _log.warning("service.broke_off", n_requests=self.n_admitted)
            self._scheduler.cancel_all(reason)
            await self._wait_for_requests(LAST_WORDS_S)

    async def _wait_for_requests(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.n_admitted and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Stop the engine, waiting for its running batch a little."""
        if self._scheduler is not None:
            self._scheduler.close(timeout_s=1.0)
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._audio_workers.shutdown(wait=False, cancel_futures=True)

    def _load_hooks(self) -> Hooks | None:
        if not self.settings.user_code:
            return None
        from serve.hooks import load_hooks

        hooks = load_hooks(self.settings.model_dir, self.settings.user_program)
        if hooks is not None:
            hooks.load_model()
        return hooks

    def _scheduler_of(self, pipeline: Pipeline) -> Scheduler:
        settings = self.settings
        limits = BatchLimits(
            max_windows=settings.max_batch_windows,
            max_batch_s=settings.max_batch_s,
            target_s=math.inf if settings.batch else settings.batch_target_s,
        )
        return Scheduler(
            pipeline.engine,
            max_requests=settings.max_requests,
            request_timeout_s=settings.request_timeout_s,
            limits=limits,
        )


def _in_turn(recording: Recording, turns: AbstractContextManager[object], ticket: Ticket) -> Recording:
    """Return the recording, decoded in turn with others, and no further than its request lives."""
    from serve.recording import Recording

    unread = recording.blocks()

    def blocks() -> Iterator[Samples]:
        while True:
            ticket.check()
            with turns:
                block = next(unread, None)
            if block is None:
                return
            yield block

    return Recording(blocks(), n_channels=recording.n_channels, duration_s=recording.duration_s)


def _warm_up(pipeline: Pipeline, scheduler: Scheduler) -> None:
    """Decode a window of noise: the first request finds everything loaded, and /ping speaks the truth."""
    import numpy as np

    import serve.audio  # noqa: F401  # the first request finds it imported
    from serve.engine import DecodingOptions
    from serve.features import MAX_WINDOW_S, SAMPLE_RATE, window_length_s
    from serve.segmentation import find_speech

    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
    find_speech(noise)
    facts = pipeline.facts
    window_s = window_length_s(len(noise), facts.margin_s) if facts.dynamic else MAX_WINDOW_S
    decoding = DecodingOptions(
        language=facts.language, adapter=facts.adapter_name is not None, max_new_tokens=4
    )
    with scheduler.admit() as ticket:
        try:
            list(ticket.decode([(pipeline.features.log_mel(noise, window_s), decoding)]))
        except ServiceError as error:
            raise StartupError("the model is loaded, but fails on its first window") from error
