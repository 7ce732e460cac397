"""The service's states (loading, ready, draining, dead), and the threads that requests run in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, cast

import structlog

from serve.config.settings import Settings
from serve.engine import Health
from serve.engine.scheduling.figures import Queue, Totals
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import NotReady, ServiceError, StartupError, UnknownModel, let_go
from serve.options import TranscriptionOptions
from serve.service.live.runs import LiveRun, LiveRuns
from serve.service.memory import MemoryBudget
from serve.service.place import Place
from serve.service.sessions import Session, Sessions
from serve.transcript.events import Event

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them while /ping answers
    from serve.audio.samples import Samples
    from serve.engine.loading import LoadEngine
    from serve.pipeline import Pipeline
    from serve.service.adapters import Adapters
    from serve.service.hooks import Hooks
    from serve.service.live.settings import LiveSettings
    from serve.service.models import Models

N_LOADERS = 2
"""Adapters or models that are loaded concurrently."""

LAST_WORDS_S = 1.0
"""Time in which cancelled requests can report the reason to their clients, in seconds."""

State = Literal["loading", "ready", "draining", "dead"]

Load = Callable[[Settings], "Pipeline"]
"""Loads what is served; `load_from_settings`, except in tests."""

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger(__name__)


def load_from_settings(settings: Settings, load_engine: LoadEngine | None = None) -> Pipeline:
    """Load what the settings name.

    Args:
        load_engine: Loads the engine; None takes what the settings ask for.

    Raises:
        StartupError: It cannot be loaded; the message says what to change.
    """
    from serve.service.loading import load_pipeline
    from serve.service.worker.supervised import engine_loader

    return load_pipeline(
        settings.model_dir,
        settings.base_model,
        engine=settings.engine,
        quantization=settings.quantization,
        n_threads=settings.n_threads,
        cache_dir=settings.cache_dir,
        offline=settings.offline,
        language=settings.language,
        encoder_context=settings.encoder_context,
        load=load_engine or engine_loader(settings),
    )


class Service:
    """A loaded model, and all requests for it."""

    def __init__(self, settings: Settings, load: Load = load_from_settings) -> None:
        """Create threads, but load nothing; see `start`."""
        self.settings = settings
        self.started = time.time()
        """Unix time."""
        self.state: State = "loading"
        self.failure: StartupError | None = None
        """Why the model could not be loaded."""
        self.sessions = Sessions(max_sessions=settings.max_sessions, lifetime_s=settings.session_lifetime_s)
        self.hooks: Hooks | None = None
        """The functions of the artifact's own code, once loaded; None where there is none."""
        self.adapters: Adapters | None = None
        """The registry of adapters; None while loading, and in a multi-model service."""
        self.models: Models | None = None
        """The registry of models in a multi-model service; otherwise None."""
        self._load = load
        self._scheduler: Scheduler | None = None
        self._workers = ThreadPoolExecutor(settings.max_requests, thread_name_prefix="request")
        self._audio_workers = ThreadPoolExecutor(settings.n_audio_workers, thread_name_prefix="audio")
        self._loaders = ThreadPoolExecutor(N_LOADERS, thread_name_prefix="loader")
        self.n_arriving = 0
        """Requests whose bodies are on their way; draining waits for these too."""
        self.live = LiveRuns(max_left=max(1, settings.max_requests // 2))
        """The live sessions."""
        self._audio_turns = threading.BoundedSemaphore(settings.n_audio_workers)

    @property
    def n_admitted(self) -> int:
        return sum(scheduler.n_admitted for scheduler in self._schedulers)

    @property
    def queue(self) -> Queue:
        """The schedulers' load; zero while the model loads."""
        return sum((scheduler.queue() for scheduler in self._schedulers), Queue())

    @property
    def totals(self) -> Totals:
        if self.models is not None:
            return self.models.totals
        return self._scheduler.totals() if self._scheduler else Totals()

    @property
    def health(self) -> list[Health]:
        """How each engine fares."""
        return [scheduler.health() for scheduler in self._schedulers]

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load the model in a thread, so that /ping answers meanwhile.

        `on_failure` is called from that thread if the model cannot be loaded.
        """

        def load() -> None:
            try:
                if self.settings.multi_model:
                    self._start_models()
                else:
                    self._start_model()
            except BaseException as error:  # nothing else would report an exception of this thread
                told = error if isinstance(error, StartupError) else None
                self.failure = told or StartupError("the model cannot be loaded")
                self.state = "dead"
                _log.error("model.failed", error=str(self.failure), exc_info=told is None)
                on_failure()

        threading.Thread(target=load, name="load", daemon=True).start()

    def check_ready(self) -> None:
        """Raise unless the service can take requests.

        Raises:
            NotReady: The model is loading, the service is draining, or the engine hangs or is started again.
        """
        if self.state == "ready":
            # Of several models, one that is started again keeps nobody from the others.
            if self._scheduler is not None:
                _check_engine(self._scheduler)
            if all(scheduler.is_alive(self.settings.engine_timeout_s) for scheduler in self._schedulers):
                return
        reasons = {
            "loading": "the model is loading",
            "draining": "the service is shutting down",
            "dead": "the model could not be loaded",
            "ready": "the engine does not answer",
        }
        raise NotReady(reasons[self.state])

    def admit(
        self,
        model: str | None = None,
        session: Session | None = None,
        *,
        is_long: bool = False,
        has_arrived: bool = False,
    ) -> Place:
        """Admit a request, before any work is done for it.

        Args:
            session: The session that the request belongs to.
            is_long: Whether its work may be long; it then gets none of the places kept for short requests.
            has_arrived: Whether its body was on its way, so that a draining service still serves it.

        Raises:
            NotReady: The service cannot take requests.
            Overloaded: All places are taken.
            UnknownModel: No such model is loaded, or a multi-model service got no name.
        """
        if not (has_arrived and self.state == "draining"):
            self.check_ready()
        if self.models is None:
            assert self._scheduler is not None and self.adapters is not None
            adapters, scheduler, held = self.adapters, self._scheduler, self.adapters.hold(None)
        elif model is None:
            raise UnknownModel("")
        else:
            adapters, scheduler, held = self.models.hold(model)
        try:
            _check_engine(scheduler)
            ticket = scheduler.admit(is_long=is_long)
        except BaseException:
            held.close()
            raise
        return Place(
            ticket,
            adapters,
            held,
            max_audio_s=self.settings.max_audio_s,
            audio_turns=self._audio_turns,
            model=model,
            session=session,
        )

    async def in_loader(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Load or free a model off the event loop, in a thread that no request uses."""
        return await asyncio.get_running_loop().run_in_executor(self._loaders, partial(work, *args, **kwargs))

    async def in_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run slow work off the event loop, at most `n_audio_workers` pieces at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._audio_workers, partial(work, *args, **kwargs))

    async def transcribe(
        self, audio: bytes | Samples, options: TranscriptionOptions, place: Place
    ) -> AsyncIterator[Event]:
        """Transcribe a recording in its own thread; yield the pipeline's events as they come.

        The request's place is freed in any case.

        Raises:
            ServiceError: The recording is not usable, or the transcription was broken off.
        """
        with place:
            opening = place.opening(audio, options)
            del audio  # only the decoder keeps it, and only as long as needed
            async for event in self.in_thread(partial(place.transcribe, opening, options)):
                yield event

    async def open_live(
        self, settings: LiveSettings, place: Place, on_over: Callable[[LiveRun], None] = lambda run: None
    ) -> LiveRun:
        """Open a live session, which closes the place when it is over; draining ends it early.

        Args:
            settings: The sound's format, and options.
            place: Its place.
            on_over: Called when it is over.

        Raises:
            UnsupportedOption: The served model does not support an option.
        """
        from serve.service.live.session import LiveSession

        await self.in_request_thread(partial(place.choose, settings.options))
        session = LiveSession(place.pipeline, settings, place.ticket, max_audio_s=self.settings.live_max_s)
        return self.live.open(session, place, self.in_thread, on_over)

    async def in_request_thread(self, work: Callable[[], T]) -> T:
        """Run work that may last as long as its request; every admitted request has a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def in_thread(self, work: Callable[[Callable[[T], None]], None]) -> AsyncIterator[T]:
        """Run work in a request thread; yield what it emits, as it comes.

        Raises:
            Exception: What the work raises.
        """
        loop = asyncio.get_running_loop()
        emitted: asyncio.Queue[T | Future[None]] = asyncio.Queue()

        def put(item: T | Future[None]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(emitted.put_nowait, item)

        def end(done: Future[None]) -> None:
            # An error that nobody waits for would keep the recording.
            let_go(None if done.cancelled() else done.exception())
            put(done)

        done = self._workers.submit(contextvars.copy_context().run, work, put)
        done.add_done_callback(end)
        del work
        while (item := await emitted.get()) is not done:
            yield cast(T, item)
        try:
            done.result()
        finally:
            del done, item  # else the error's traceback, this frame and the future would keep each other

    async def drain(self) -> None:
        """Refuse new requests; cancel running ones that do not end within `drain_s`."""
        self.state = "draining"
        _log.info("service.draining", n_requests=self.n_admitted)
        reason = NotReady("the service is shutting down")
        await self._wait_for_requests(self.settings.drain_s / 2)
        for run in self.live.all:  # the speech so far is still transcribed
            run.session.end(reason)
        await self._wait_for_requests(self.settings.drain_s / 2)
        if self.n_admitted:
            _log.warning("service.broke_off", n_requests=self.n_admitted)
            for scheduler in self._schedulers:
                scheduler.cancel_all(reason)
            await self._wait_for_requests(LAST_WORDS_S)

    async def _wait_for_requests(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (self.n_admitted or self.n_arriving) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Stop the engine; wait up to 1 s for its running batch."""
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

    def _start_model(self) -> None:
        """Load what the settings name, and warm up with a first window."""
        from serve.service.known_sound import warm_up
        from serve.service.loading import scheduler_of

        started = time.monotonic()
        pipeline = self._load(self.settings)
        hooks = self._load_hooks()
        scheduler = scheduler_of(pipeline.engine, self.settings)
        with scheduler.admit() as ticket:
            try:
                warm_up(pipeline, ticket)
            except ServiceError as error:
                raise StartupError("the model is loaded, but fails on its first window") from error
        import serve.audio.decode  # noqa: F401  # imported now, so that the first request need not
        from serve.service.adapters import Adapters

        self.adapters = Adapters(
            pipeline,
            roots=self.settings.loading_roots,
            budget=_budget(self.settings.adapter_memory_mib),
            max_adapters=self.settings.max_adapters,
        )
        self._scheduler, self.hooks = scheduler, hooks
        if self.state == "loading":
            self.state = "ready"
        facts = pipeline.facts
        seconds = round(time.monotonic() - started, 1)
        _log.info("model.ready", adapter=facts.adapter_name, language=facts.language, load_s=seconds)

        from serve.audio.caged.sndfile import start_cage
        from serve.audio.samples import load_resampler

        start_cage()  # after the ready state: a first recording hardly waits for it,
        load_resampler()  # and only those at other rates than 16 kHz for this

    def _start_models(self) -> None:
        """Prepare to load models on request."""
        import numpy as np

        import serve.audio.decode  # noqa: F401  # imported now, so that the first request need not
        from serve.audio.caged.sndfile import start_cage
        from serve.audio.samples import SAMPLE_RATE
        from serve.audio.segmentation import find_speech
        from serve.service.models import Models

        start_cage()
        find_speech(np.zeros(SAMPLE_RATE, np.float32))
        self.models = Models(self.settings, _budget(self.settings.model_memory_mib))
        if self.state == "loading":
            self.state = "ready"
        _log.info("models.ready")

    def _load_hooks(self) -> Hooks | None:
        if not self.settings.runs_user_code:
            return None
        from serve.service.hooks import load_hooks

        hooks = load_hooks(self.settings.model_dir, self.settings.user_program)
        if hooks is not None:
            hooks.load_model()
        return hooks


def _check_engine(scheduler: Scheduler) -> None:
    if not scheduler.is_ready:
        raise NotReady("the engine ended, and is started again", retry_after_s=1)


def _budget(limit_mib: float | None) -> MemoryBudget:
    return MemoryBudget(None if limit_mib is None else int(limit_mib * 2**20), measured=True)
