"""An engine whose process may die: it is started again, with the adapters that it held.

engine = SupervisedEngine(spec)
engine.decode(windows)      # EngineLost where the process ends meanwhile; the next call finds a new one
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import structlog

from serve.config.settings import Settings
from serve.engine import BatchSize, DecodingOptions, Engine, EngineInput, Health, Hypothesis, LanguageProbs
from serve.engine.loading import EngineSpec, LoadEngine, load_engine, runtime_of
from serve.errors import EngineError, EngineLost, NotReady, ShrotaError, StartupError
from serve.model.artifact import Artifact
from serve.service.worker.messages import Loaded, Row, Start
from serve.service.worker.process import Encoded, Limits, WorkerProcess

RESTART_WAIT_S = 60.0
"""Longest that a call waits for a new process."""

SETTLED_S = 5.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
"""Pause before a process is started if the one before lived for less than `SETTLED_S` seconds; it doubles
each time."""

_log = structlog.get_logger(__name__)


def engine_loader(settings: Settings) -> LoadEngine:
    """Return what loads an engine as the settings ask: in a process of its own, or in this one.

    Where an engine will be needed, its process is started now, and imports its libraries meanwhile.

    Raises:
        ConfigError: The engine does not support the quantization.
    """
    if not settings.engine_process:
        return load_engine
    memory_mib = settings.engine_memory_mib
    limits = Limits(
        call_s=settings.engine_timeout_s,
        memory_bytes=None if memory_mib is None else int(memory_mib * 2**20),
    )
    start = Start(
        runtime=runtime_of(settings.engine, settings.quantization),
        log_level=settings.log_level,
        n_threads=settings.n_threads,
    )
    spare = [] if settings.multi_model else [WorkerProcess(start, limits)]

    def load(spec: EngineSpec) -> Engine:
        return SupervisedEngine(spec, start, limits, process=spare.pop() if spare else None)

    return load


class SupervisedEngine(Engine):
    """Implements `serve.engine.Engine` by calls to a process, which it replaces when that ends."""

    def __init__(
        self,
        spec: EngineSpec,
        start: Start | None = None,
        limits: Limits | None = None,
        *,
        process: WorkerProcess | None = None,
    ) -> None:
        """Load the engine in a process.

        Args:
            spec: What is loaded, again after each restart.
            start: How processes are started.
            limits: What a process may take.
            process: The first one, if it is started already.

        Raises:
            StartupError: The model cannot be found, converted or loaded, or the process ended meanwhile.
        """
        self._spec = spec
        self._limits = limits or Limits()
        self._start = start or Start(runtime=spec.engine, n_threads=spec.n_threads)
        self._changed = threading.Condition()
        self._process: WorkerProcess | None = None  # None while there is no loaded one
        self._n_restarts = 0
        self._is_closing = False
        self._adapters: dict[str, Artifact] = {}
        self._made_ready: dict[DecodingOptions, None] = {}
        self._unsupported = lru_cache(maxsize=1_024)(self._asked_unsupported)
        self._kind = lru_cache(maxsize=4_096)(self._asked_kind)
        self._base_bytes = 0
        process, self._loaded = self._first(process)
        self._process = process
        for beam_size, times, word_times, language in product((1, 2), *[(False, True)] * 3):
            self.unsupported(  # so that the event loop, which asks too, waits for none of the usual ones
                DecodingOptions(
                    language=min(self.languages) if language else None,
                    beam_size=beam_size,
                    timestamps=bool(times),
                    word_timestamps=bool(word_times),
                )
            )
        threading.Thread(
            target=self._supervise, args=(process,), name="worker-supervisor", daemon=True
        ).start()

    @property
    def n_workers(self) -> int:
        return self._loaded.n_workers

    @property
    def usual_batch(self) -> BatchSize:
        return self._loaded.usual_batch

    @property
    def languages(self) -> frozenset[str]:
        return self._loaded.languages

    @property
    def has_adapter(self) -> bool:
        return self._loaded.has_adapter

    @property
    def is_ready(self) -> bool:
        return self._alive() is not None

    def health(self) -> Health:
        process = self._alive()
        return Health(
            n_restarts=self._n_restarts,
            memory_bytes=0 if process is None else process.memory_bytes,
        )

    @property
    def pid(self) -> int | None:
        """Id of the process; None while there is none."""
        process = self._alive()
        return None if process is None else process.pid

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        # Nothing else decides, and prompts would be remembered.
        asked = DecodingOptions(
            language=None if options.language is None else min(self.languages),
            beam_size=min(options.beam_size, 2),
            timestamps=options.timestamps,
            word_timestamps=options.word_timestamps,
            suppress=options.suppress,
        )
        found: tuple[str, str] | None = self._unsupported(asked)
        return found

    def adapter_bytes(self, artifact: Artifact) -> int:
        return int(self._call("adapter_bytes", artifact))

    def base_bytes(self) -> int:
        with suppress(EngineLost):  # then it is what it was, once the base is loaded again
            self._base_bytes = int(self._call("base_bytes"))
        return self._base_bytes

    def load_adapter(self, key: str, artifact: Artifact) -> None:
        while True:
            process = self._current()
            process.call("load_adapter", key, artifact)  # one that ends the process is not tried again
            with self._changed:
                if self._process is process:
                    self._adapters[key] = artifact
                    return

    def unload_adapter(self, key: str) -> None:
        with self._changed:
            self._forget(key)
            process = self._alive()
        if process is not None:
            with suppress(EngineLost):  # which has unloaded it as well
                process.call("unload_adapter", key)

    def has_lost(self, key: str) -> bool:
        return key not in self._adapters

    def bytes_to_load(self, options: DecodingOptions) -> int:
        return int(self._call("bytes_to_load", options))

    def make_ready(self, options: DecodingOptions) -> None:
        self._call("make_ready", options)
        self._made_ready[options] = None

    def kind(self, window: EngineInput) -> Hashable:
        options = window.options
        if options.prompt or options.hotwords or options.prefix:  # words of a client are not remembered
            kind = self._asked_kind(options, window.n_frames)
        else:  # the kind does not depend on these two, which differ from window to window
            kind = self._kind(replace(options, max_new_tokens=0, seed=0), window.n_frames)
        # What a window draws at random must not depend on its neighbours.
        return (kind, object()) if window.options.temperature > 0 else kind

    def detect_language(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        found: list[LanguageProbs] = self._decoded("detect_language", windows)
        return found

    def decode(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        found: list[Hypothesis] = self._decoded("decode", windows)
        return found

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.close()

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method, once more where the process ends meanwhile."""
        try:
            return self._current().call(method, *arguments)
        except EngineLost:
            return self._current().call(method, *arguments)

    def _asked_unsupported(self, options: DecodingOptions) -> Any:
        if (process := self._alive()) is None:  # the event loop may ask, and must not wait
            raise NotReady("the engine ended, and is started again", retry_after_s=1)
        return process.call("unsupported", options)

    def _asked_kind(self, options: DecodingOptions, n_frames: int) -> Any:
        bare = EngineInput(log_mel=np.empty((0, n_frames), np.float32), options=options)
        return self._call("kind", bare)

    def _decoded(self, method: str, windows: Sequence[EngineInput]) -> Any:
        process = self._current()
        places = [_place_of(window, process) for window in windows]
        rows = [
            Row(each.log_mel, each.options, place.id) for each, place in zip(windows, places, strict=True)
        ]
        found = process.call(method, rows)
        if len(found) != len(windows):
            raise EngineError(f"the engine's process answered {len(found)} of {len(windows)} windows")
        for window, place in zip(windows, places, strict=True):
            window.encoded = place
        return found

    def _current(self) -> WorkerProcess:
        """Return the process; wait for it while it is replaced."""
        with self._changed:
            self._changed.wait_for(lambda: self._alive() or self._is_closing, RESTART_WAIT_S)
            if (process := self._alive()) is None:
                raise EngineLost
            return process

    def _alive(self) -> WorkerProcess | None:
        """Return the process, unless it has ended."""
        process = self._process
        return None if process is None or process.is_over.is_set() else process

    def _started(self, process: WorkerProcess | None = None) -> tuple[WorkerProcess, Loaded]:
        """Start a process, unless one is given, and load into it what is to be there.

        Raises:
            StartupError, EngineLost: It cannot be loaded.
        """
        process = process or WorkerProcess(self._start, self._limits)
        try:
            loaded: Loaded = process.call("load", self._spec)
            for key, artifact in list(self._adapters.items()):
                self._load_again(process, key, "load_adapter", key, artifact)
            for options in list(self._made_ready):
                self._load_again(process, options.adapter, "make_ready", options)
        except BaseException:
            process.kill("could not be loaded")
            raise
        process.began = time.monotonic()
        return process, loaded

    def _first(self, process: WorkerProcess | None) -> tuple[WorkerProcess, Loaded]:
        process = process or WorkerProcess(self._start, self._limits)
        try:
            return self._started(process)
        except EngineLost as error:
            process.is_over.wait(RESTART_WAIT_S)
            how = process.reason or f"status {process.exit_status}"
            raise StartupError(f"the engine's process ended while it loaded the model: {how}") from error

    def _load_again(self, process: WorkerProcess, adapter: str | None, method: str, *arguments: Any) -> None:
        """Load what the process before held; an adapter that cannot be loaded is lost (`has_lost`).

        Raises:
            EngineLost: The process ended of it; the next one is started without.
        """
        try:
            process.call(method, *arguments)
        except ShrotaError as error:
            _log.error("worker.adapter_lost", adapter=adapter, error=str(error))
            if isinstance(error, EngineLost) or method == "load_adapter":
                self._forget(adapter)
            if isinstance(error, EngineLost):
                raise

    def _forget(self, adapter: str | None) -> None:
        """Load neither an adapter nor what was made ready for it again; None stands for the base model's."""
        if adapter is not None:
            self._adapters.pop(adapter, None)
        self._made_ready = {each: None for each in self._made_ready if each.adapter != adapter}

    def _supervise(self, process: WorkerProcess) -> None:
        """Replace the process whenever it ends, until the engine is closed."""
        pause_s = 0.0
        while True:
            process.is_over.wait()
            lost = time.monotonic()
            with self._changed:
                if self._is_closing:
                    return
                self._process = None
            _log.error("worker.lost", reason=process.reason or None, status=process.exit_status)
            is_settled = lost - process.began > SETTLED_S
            replaced = None
            while replaced is None:
                pause_s = 0.0 if is_settled else min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
                is_settled = False
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closing, pause_s):
                        return
                replaced = self._replaced()
            process = replaced
            self._kind.cache_clear()
            _log.info("worker.restarted", restart_s=round(time.monotonic() - lost, 2))

    def _replaced(self) -> WorkerProcess | None:
        """Start another process; None if that fails, or the engine is closed meanwhile."""
        try:
            process, _ = self._started()
        except Exception as error:  # also of the system, which may be short of memory: it is tried again
            _log.error("worker.restart_failed", error=str(error) or type(error).__name__)
            return None
        with self._changed:
            is_closing = self._is_closing
        if is_closing:
            process.close()
            return None
        with self._changed:
            self._process, self._n_restarts = process, self._n_restarts + 1
            self._changed.notify_all()
        return process


def _place_of(window: EngineInput, process: WorkerProcess) -> Encoded:
    """Return where the process keeps the window's encoder output; a lost process has kept nothing."""
    place = window.encoded
    return place if isinstance(place, Encoded) and place.process is process else process.new_encoded()
