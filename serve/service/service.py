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

from serve.config.settings import Settings
from serve.engine.closing import Closing
from serve.engine.scheduler import BatchLimits, Queue, Scheduler, Ticket, Totals
from serve.errors import AudioTooLong, NotReady, ServiceError, StartupError, UnknownModel
from serve.options import TranscriptionOptions
from serve.service.memory import MemoryBudget
from serve.service.sessions import Sessions
from serve.transcript.events import Event

if TYPE_CHECKING:  # their imports take seconds, which the loading thread spends while /ping already answers
    from serve.audio.recording import Recording
    from serve.audio.samples import Samples
    from serve.pipeline import Pipeline
    from serve.service.adapters import Adapters, Held
    from serve.service.hooks import Hooks
    from serve.service.live import LiveSession
    from serve.service.live_settings import LiveSettings
    from serve.service.models import Models

N_LOADERS = 2
"""Adapters or models that are loaded at a time."""

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
    from serve.service.loading import load_pipeline

    return load_pipeline(
        settings.model_dir,
        settings.base_model,
        engine=settings.engine,
        quantization=settings.quantization,
        n_threads=settings.n_threads,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
    )


class Place(Closing):
    """An admitted request: its ticket, and the adapter it holds. A context manager: leaving frees both."""

    def __init__(self, ticket: Ticket, adapters: Adapters, held: Held, *, model: str | None = None) -> None:
        """Only `Service.admit` makes places.

        Args:
            ticket: Of the scheduler.
            adapters: Of the base model that decodes.
            held: What serves a request that names no adapter.
            model: Name of the model of a multi-model service, whose adapter is the only one.
        """
        self.ticket = ticket
        self._adapters = adapters
        self._held = held
        self._model = model

    @property
    def pipeline(self) -> Pipeline:
        """Of the chosen adapter."""
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

    def close(self) -> None:
        """Free everything; any number of times."""
        self.ticket.close()
        self._held.close()


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
        self.adapters: Adapters | None = None
        """Beside the served one; None while it loads, and of a multi-model service."""
        self.models: Models | None = None
        """Of a multi-model service."""
        self._load = load
        self._scheduler: Scheduler | None = None
        self._workers = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="request")
        self._audio_workers = ThreadPoolExecutor(settings.n_audio_workers, thread_name_prefix="audio")
        self._loaders = ThreadPoolExecutor(N_LOADERS, thread_name_prefix="loader")
        self._live: set[LiveSession] = set()
        self._audio_turns = threading.BoundedSemaphore(settings.n_audio_workers)

    @property
    def n_admitted(self) -> int:
        """Requests being worked on."""
        return sum(scheduler.n_admitted for scheduler in self._schedulers)

    @property
    def queue(self) -> Queue:
        """Figures of the scheduler's queue; all zero while the model loads."""
        return sum((scheduler.queue() for scheduler in self._schedulers), Queue())

    @property
    def totals(self) -> Totals:
        """What the engine has done."""
        if self.models is not None:
            return self.models.totals
        return self._scheduler.totals() if self._scheduler else Totals()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load the model in a thread, so that the port is bound and /ping answers meanwhile.

        `on_failure` is called from that thread when the model cannot be loaded.
        """

        def load() -> None:
            started = time.monotonic()
            if self.settings.multi_model:
                self._start_models()
                return
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
            from serve.service.adapters import Adapters

            self.adapters = Adapters(
                pipeline, roots=self.settings.loading_roots, budget=_budget(self.settings.adapter_memory_mib)
            )
            self._scheduler, self.hooks = scheduler, hooks
            if self.state == "loading":
                self.state = "ready"
            facts = pipeline.facts
            seconds = round(time.monotonic() - started, 1)
            _log.info("model.ready", adapter=facts.adapter_name, language=facts.language, load_s=seconds)

            from serve.audio.resampling import load_resampler

            load_resampler()  # behind the ready sign: only recordings of other rates than 16 kHz wait for it

        threading.Thread(target=load, name="load", daemon=True).start()

    def check_ready(self) -> None:
        """Raise unless requests can be worked on.

        Raises:
            NotReady: The model is loading, the service is draining, or the engine no longer answers.
        """
        if self.state == "ready" and all(
            scheduler.is_alive(self.settings.engine_timeout_s) for scheduler in self._schedulers
        ):
            return
        reasons = {
            "loading": "the model is loading",
            "draining": "the service is shutting down",
            "dead": "the model could not be loaded",
            "ready": "the engine does not answer",
        }
        raise NotReady(reasons[self.state])

    def admit(self, model: str | None = None) -> Place:
        """Give a request its place, before any work is done for it.

        Args:
            model: Of a multi-model service.

        Raises:
            NotReady, Overloaded: There is none.
            UnknownModel: No such model is loaded, or none is named where there are several.
        """
        self.check_ready()
        if self.models is not None:
            if model is None:
                raise UnknownModel("")
            adapters, scheduler, held = self.models.hold(model)
            try:
                return Place(scheduler.admit(), adapters, held, model=model)
            except BaseException:
                held.close()
                raise
        assert self._scheduler is not None and self.adapters is not None
        return Place(self._scheduler.admit(), self.adapters, self.adapters.hold(None))

    async def in_loader(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what loads or frees a model off the event loop, and off the threads of requests."""
        return await asyncio.get_running_loop().run_in_executor(self._loaders, partial(work, *args, **kwargs))

    async def in_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what takes long off the event loop; at most `n_audio_workers` at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._audio_workers, partial(work, *args, **kwargs))

    async def transcribe(
        self, audio: bytes | Samples, options: TranscriptionOptions, place: Place
    ) -> AsyncIterator[Event]:
        """Decode a recording and yield the pipeline's events as they come.

        Decoder and pipeline run in a thread of their own, and hand events over to the event loop. A recording
        is decoded as far as the pipeline has come; faults in its first 30 s come before the first event.

        Raises:
            ServiceError: The recording is not usable, or the transcription broke off.
        """
        events = self.events_of(audio, options, place)
        del audio  # the decoder alone holds it, and only for as long as it needs it

        def work(emit: Callable[[Event], None]) -> None:
            for event in events:
                emit(event)

        async for event in self.in_thread(work):
            yield event

    def events_of(
        self, audio: bytes | Samples, options: TranscriptionOptions, place: Place
    ) -> Iterator[Event]:
        """Return the events of a recording, for one of the request threads to pull.

        Raises:
            AudioTooLong: Samples last longer than recordings may.
        """
        from serve.audio.decode import AudioLimits, open_audio
        from serve.audio.recording import Recording

        opening: AbstractContextManager[Recording]
        if isinstance(audio, bytes):
            limits = AudioLimits(max_audio_s=self.settings.max_audio_s)
            opening = open_audio(audio, limits, split=options.channels == "split", track=options.track)
        else:
            recording = Recording.of(audio)
            assert recording.duration_s is not None, "it is in memory"
            if recording.duration_s > self.settings.max_audio_s:
                raise AudioTooLong(recording.duration_s, self.settings.max_audio_s)
            opening = nullcontext(recording)
        return self._pull(place, opening, options)

    def _pull(
        self, place: Place, opening: AbstractContextManager[Recording], options: TranscriptionOptions
    ) -> Iterator[Event]:
        ticket = place.ticket
        with ExitStack() as stack:
            with self._audio_turns:
                recording = stack.enter_context(opening)
            recording = _in_turn(recording, self._audio_turns, ticket)
            yield from place.pipeline.transcribe(recording, options, ticket.decode)

    @contextmanager
    def live_session(self, settings: LiveSettings, place: Place) -> Iterator[LiveSession]:
        """Open a live stream, which is ended in time when the service drains.

        Raises:
            UnsupportedOption: The served model cannot do what is asked.
        """
        from serve.service.live import LiveSession

        place.choose(settings.options)
        session = LiveSession(place.pipeline, settings, place.ticket, max_audio_s=self.settings.live_max_s)
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
        if self.n_admitted:
            _log.warning("service.broke_off", n_requests=self.n_admitted)
            for scheduler in self._schedulers:
                scheduler.cancel_all(reason)
            await self._wait_for_requests(LAST_WORDS_S)

    async def _wait_for_requests(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.n_admitted and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Stop the engine, waiting for its running batch a little."""
        for scheduler in self._schedulers:
            scheduler.close(timeout_s=1.0)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._audio_workers.shutdown(wait=False, cancel_futures=True)

    @property
    def _schedulers(self) -> list[Scheduler]:
        if self.models is not None:
            return self.models.schedulers
        return [self._scheduler] if self._scheduler else []

    def _start_models(self) -> None:
        """Get ready to take models."""
        import numpy as np

        import serve.audio.decode  # noqa: F401  # the first request finds it imported
        from serve.audio.samples import SAMPLE_RATE
        from serve.audio.segmentation import find_speech
        from serve.service.models import Models

        find_speech(np.zeros(SAMPLE_RATE, np.float32))
        self.models = Models(self.settings, self._scheduler_of, _budget(self.settings.model_memory_mib, True))
        if self.state == "loading":
            self.state = "ready"
        _log.info("models.ready")

    def _load_hooks(self) -> Hooks | None:
        if not self.settings.user_code:
            return None
        from serve.service.hooks import load_hooks

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


def _budget(limit_mib: float | None, measured: bool = False) -> MemoryBudget:
    return MemoryBudget(None if limit_mib is None else int(limit_mib * 2**20), measured=measured)


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


def _warm_up(pipeline: Pipeline, scheduler: Scheduler) -> None:
    """Decode a window of noise: the first request finds everything loaded, and /ping speaks the truth."""
    import numpy as np

    import serve.audio.decode  # noqa: F401  # the first request finds it imported
    from serve.audio.features import MAX_WINDOW_S, window_length_s
    from serve.audio.samples import SAMPLE_RATE
    from serve.audio.segmentation import find_speech
    from serve.engine import DecodingOptions

    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
    find_speech(noise)
    facts = pipeline.facts
    window_s = window_length_s(len(noise), facts.margin_s) if facts.dynamic else MAX_WINDOW_S
    decoding = DecodingOptions(
        language=facts.language,
        adapter=None if facts.adapter_name is None else facts.adapter_key,
        max_new_tokens=4,
    )
    with scheduler.admit() as ticket:
        try:
            list(ticket.decode([(pipeline.features.log_mel(noise, window_s), decoding)]))
        except ServiceError as error:
            raise StartupError("the model is loaded, but fails on its first window") from error
