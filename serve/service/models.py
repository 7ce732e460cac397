"""The models of a multi-model service: loaded, held by requests, unloaded on demand. Knows no HTTP.

Models with the same base model share its engine and queue: they are adapters (`serve.service.adapters`). A
base is freed when its last model is removed and its last reference released. Nothing is evicted: the hosting
platform unloads models itself when it is told that memory is short.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from serve.config.settings import Settings
from serve.engine import DecodingOptions
from serve.engine.scheduling.figures import Totals
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import (
    BadAdapter,
    ModelExists,
    NoMemory,
    RequestError,
    StartupError,
    UnknownModel,
)
from serve.model.adapter_source import check_links, find_source, without_directories
from serve.model.allocator import return_freed_memory
from serve.model.artifact import Told
from serve.model.base_model import base_fingerprint, weight_bytes
from serve.service.adapters import Adapters, Held
from serve.service.loading import Served, find_served, load_served, scheduler_of
from serve.service.memory import MemoryBudget
from serve.service.registered import NAME
from serve.service.worker.supervised import engine_loader

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str
    url: str
    """The address it was loaded from, as the caller wrote it."""


@dataclass(eq=False, kw_only=True)
class _Base:
    """A loaded base model; the registry's lock guards the last two fields."""

    fingerprint: str
    adapters: Adapters
    scheduler: Scheduler
    n_bytes: int = 0
    """Bytes taken from the budget when its engine was loaded."""
    n_references: int = 0
    models: dict[str, _Loaded] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    model: Model
    base: _Base
    is_adapter: bool


class Models:
    """A registry. Thread-safe; `add` and `remove` may take long."""

    def __init__(self, settings: Settings, budget: MemoryBudget) -> None:
        """Start without models.

        Args:
            settings: How engines are loaded, and from where.
            budget: Memory for all models together.
        """
        self._settings = settings
        self._budget = budget
        self._lock = threading.Lock()
        self._adding = threading.Lock()  # one `add` at a time: two models may need the same base
        self._loaded: dict[str, _Loaded] = {}
        self._bases: dict[str, _Base] = {}
        self._past = Totals()

    @property
    def schedulers(self) -> list[Scheduler]:
        with self._lock:
            return [base.scheduler for base in self._bases.values()]

    @property
    def totals(self) -> Totals:
        """Work done by all engines, freed ones included."""
        return sum((scheduler.totals() for scheduler in self.schedulers), self._past)

    def add(self, name: str, url: str) -> Model:
        """Load a model.

        Args:
            name: Name of the model in requests.
            url: Directory of an artifact, or of a base model's checkpoint.

        Raises:
            RequestError: The name is malformed.
            ModelExists: The name is taken.
            UnknownPath: The directory does not exist, or lies outside the allowed ones.
            BadAdapter: Its files are damaged, or do not fit each other.
            NoMemory: There is no room.
        """
        if not NAME.fullmatch(name):
            raise RequestError(
                "model_name has up to 200 letters, digits, dots, colons, hyphens and underscores"
            )
        with self._adding:
            if name in self._loaded:
                raise ModelExists(name)
            settings = self._settings
            path = find_source(url, settings.loading_roots)
            check_links(path, settings.loading_roots)
            try:
                served = find_served(
                    path,
                    settings.base_model,
                    cache_dir=settings.cache_dir,
                    offline=settings.offline,
                    roots=settings.loading_roots,
                    told=Told(language=settings.language, encoder_context=settings.encoder_context),
                )
                base = self._referenced_base(served)
                try:
                    self._load(base, name, path, served)
                    model = Model(name=name, url=url)
                    with self._lock:
                        loaded = _Loaded(model=model, base=base, is_adapter=served.artifact is not None)
                        base.models[name] = self._loaded[name] = loaded
                finally:
                    with self._lock:
                        base.n_references -= 1
                    self._drop_unless_used(base)
            except StartupError as error:
                raise BadAdapter(without_directories(str(error).replace(f"{path}/", ""))) from error
        _log.info("model.added", model=name, memory_bytes=self._budget.taken_bytes)
        return model

    def all(self) -> list[Model]:
        """Return all loaded models, sorted by name."""
        with self._lock:
            return [self._loaded[name].model for name in sorted(self._loaded)]

    def get(self, name: str) -> Model:
        """Return a loaded model.

        Raises:
            UnknownModel: No loaded model has that name.
        """
        with self._lock:
            return self._find(name).model

    def remove(self, name: str) -> None:
        """Unregister a model, and free it once its last reference is released.

        Raises:
            UnknownModel: No loaded model has that name.
        """
        with self._lock:
            loaded = self._find(name)
            base = loaded.base
            del self._loaded[name], base.models[name]
        if loaded.is_adapter:
            base.adapters.remove(name)
        self._drop_unless_used(base)
        _log.info("model.removed", model=name)

    def hold(self, name: str) -> tuple[Adapters, Scheduler, Held]:
        """Hold a reference to a model; return its adapters, its scheduler, and its pipeline.

        Raises:
            UnknownModel: No loaded model has that name.
        """
        with self._lock:
            loaded = self._find(name)
            base = loaded.base
            inner = base.adapters.hold(name if loaded.is_adapter else None)
            base.n_references += 1

        def release() -> None:
            inner.close()
            with self._lock:
                base.n_references -= 1
                is_over = not base.n_references and not base.models
            if is_over:  # the event loop may be releasing, and freeing waits for a batch
                threading.Thread(target=self._drop_unless_used, args=(base,), daemon=True).start()

        return base.adapters, base.scheduler, Held(inner.pipeline, release)

    def _find(self, name: str) -> _Loaded:
        if name not in self._loaded:
            raise UnknownModel(name)
        return self._loaded[name]

    def _referenced_base(self, served: Served) -> _Base:
        """Return the loaded base of a model, with a reference to it; load it first if needed.

        Without the reference, it would end with its last model while the next one is being loaded.
        """
        fingerprint = base_fingerprint(served.base_dir)
        with self._lock:
            if (base := self._bases.get(fingerprint)) is not None:
                base.n_references += 1
                return base
        n_bytes = weight_bytes(served.base_dir)
        if not self._budget.fits(n_bytes):
            raise NoMemory(n_bytes, self._budget.limit_bytes, self._budget.taken_bytes)
        settings = self._settings
        pipeline = load_served(
            Served(base_dir=served.base_dir, artifact=None, told=served.told),
            engine=settings.engine,
            quantization=settings.quantization,
            n_threads=settings.n_threads,
            cache_dir=settings.cache_dir,
            preload=False,
            load=engine_loader(settings),
        )
        adapters = Adapters(pipeline, roots=settings.loading_roots, budget=self._budget)
        n_bytes = pipeline.engine.base_bytes()  # 0 where the engine loads it on first use
        self._budget.take(n_bytes, force=True)
        scheduler = scheduler_of(pipeline.engine, settings)
        base = _Base(
            fingerprint=fingerprint, adapters=adapters, scheduler=scheduler, n_bytes=n_bytes, n_references=1
        )
        with self._lock:
            self._bases[fingerprint] = base
        return base

    def _load(self, base: _Base, name: str, path: Path, served: Served) -> None:
        engine = base.adapters.pipeline.engine
        if served.artifact is not None:
            told = None if served.artifact.kind == "artifact" else served.told
            base.adapters.add(name, str(path), pin=True, told=told)
        else:
            base.adapters.make_ready(DecodingOptions(adapter=None, language=min(engine.languages)))

    def _drop_unless_used(self, base: _Base) -> None:
        with self._lock:
            if base.models or base.n_references or self._bases.get(base.fingerprint) is not base:
                return
            del self._bases[base.fingerprint]
            self._past += base.scheduler.totals()
        if not base.scheduler.close(timeout_s=self._settings.engine_timeout_s):
            _log.error("model.engine_does_not_end", base=base.fingerprint)
        return_freed_memory()
        self._budget.give_back(base.n_bytes + base.adapters.lasting_bytes)
