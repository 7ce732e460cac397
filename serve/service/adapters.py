"""The adapters of one base model by name: added, held by requests, removed. Knows no HTTP.

    adapters = Adapters(pipeline, roots=[Path("/opt/ml")], budget=MemoryBudget(2**30))
    adapters.add("hindi", "/opt/ml/adapters/hindi")                 # in its own thread: it may take long
    with adapters.hold("hindi", ticket.check) as held:
        held.pipeline.transcribe(...)                               # as that adapter's manifest says

A request holds a reference to its adapter from the check of its options to its end. A removed adapter is
freed once its last reference is released. `serve.service.residency` decides which adapters are in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import structlog

from serve.engine import DecodingOptions
from serve.errors import (
    AdapterExists,
    BadAdapter,
    EngineError,
    NotRemovable,
    RequestError,
    StartupError,
    TooManyAdapters,
    UnknownAdapter,
    UnsupportedOption,
)
from serve.model.adapter_source import find_source, read_adapter, without_directories
from serve.model.artifact import Artifact, Told
from serve.model.base_model import base_fingerprint
from serve.options import NO_ADAPTER
from serve.pipeline import Pipeline, ServingFacts
from serve.service.loading import serving_facts
from serve.service.memory import MemoryBudget
from serve.service.registered import NAME, Adapter
from serve.service.residency import Entry, Residency

MAX_NAMED = 10
"""Most adapters that an error message lists."""

_log = structlog.get_logger(__name__)


class Held(ExitStack):
    """A reference to an adapter, and the pipeline for its manifest. Closing it releases the reference."""

    def __init__(self, pipeline: Pipeline, release: Callable[[], None]) -> None:
        """Made by `Adapters.hold` only."""
        super().__init__()
        self.pipeline = pipeline
        self.callback(release)


class Adapters:
    """A registry. Thread-safe; `add` and `remove` may take long."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        roots: Iterable[Path] = (),
        budget: MemoryBudget | None = None,
        max_adapters: int | None = None,
    ) -> None:
        """Register the adapter that the engine was loaded with, under its own name.

        Args:
            roots: Directories that adapters may be loaded from.
            budget: Memory for added adapters and for whatever else requests load.
            max_adapters: Most adapters registered at a time, the served one included.
        """
        self._served = pipeline
        self._roots = tuple(roots)
        self._max_adapters = max_adapters
        self._residency = Residency(pipeline.engine, budget or MemoryBudget())
        self._changed = self._residency.changed
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, str] = {}  # name or alias -> name, adapters being added included
        self._keys = itertools.count(1)
        if (name := pipeline.facts.adapter_name) is not None:
            entry = Entry(
                name=name, alias=None, facts=pipeline.facts, artifact=None, pin=True, is_loaded=True
            )
            self._entries[name] = entry
            self._names[name] = name

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline for requests that name no adapter."""
        return self._served

    @property
    def lasting_bytes(self) -> int:
        """Bytes taken from the budget for models that belong to no added adapter."""
        return self._residency.lasting_bytes

    @cached_property
    def _fingerprint(self) -> str:
        assert self._served.base_dir is not None
        return base_fingerprint(self._served.base_dir)

    def add(
        self,
        name: str,
        source: str,
        *,
        preload: bool = True,
        pin: bool = False,
        alias: str | None = None,
        told: Told | None = None,
    ) -> Adapter:
        """Register an adapter, and load it unless `preload` and `pin` are both false.

        Args:
            told: Facts about a model without a manifest.

        Raises:
            RequestError: The name or alias is malformed.
            AdapterExists: The name or alias is taken.
            UnknownPath: The source does not exist, or lies outside the roots.
            BadAdapter: Its files are damaged, or do not fit the base model.
            NoMemory: Pinned adapters and adapters in use leave no room.
            TooManyAdapters: The limit on registered adapters is reached.
        """
        names = [each for each in dict.fromkeys((name, alias)) if each is not None]
        self._take_names(names)
        try:
            artifact = self._read(source, told)
            facts = serving_facts(artifact, name=name, key=f"{name}#{next(self._keys)}")
            entry = Entry(
                name=name,
                alias=alias if alias != name else None,
                facts=facts,
                artifact=artifact,
                pin=pin,
            )
            if preload or pin:
                self._residency.load(entry)
        except BaseException as error:
            with self._changed:
                for each in names:
                    del self._names[each]
            if isinstance(error, StartupError):
                raise BadAdapter(_sentence(error)) from error
            raise
        with self._changed:
            self._entries[name] = entry
            found = _described(entry)
        _log.info("adapter.added", adapter=name, loaded=entry.is_loaded, memory_bytes=entry.n_bytes)
        return found

    def _take_names(self, names: Sequence[str]) -> None:
        """Reserve a name, followed by aliases, so that no other adapter can take it while this one loads."""
        for each in names:
            if not NAME.fullmatch(each) or each == NO_ADAPTER:
                raise RequestError(
                    "the name of an adapter has up to 200 letters, digits, dots, colons, dashes and"
                    f" underscores, and is not '{NO_ADAPTER}'"
                )
        with self._changed:
            for each in names:
                if each in self._names:
                    raise AdapterExists(each)
            if self._max_adapters is not None and len(set(self._names.values())) >= self._max_adapters:
                raise TooManyAdapters(self._max_adapters)
            self._names.update(dict.fromkeys(names, names[0]))

    def all(self) -> list[Adapter]:
        """Return all registered adapters, oldest first."""
        with self._changed:
            return [_described(entry) for entry in self._entries.values()]

    def get(self, name: str) -> Adapter:
        """Return an adapter's state.

        Raises:
            UnknownAdapter: No adapter has that name.
        """
        with self._changed:
            return _described(self._entry(name))

    def remove(self, name: str) -> None:
        """Unregister an adapter, and free it once its last reference is released.

        Raises:
            UnknownAdapter: No adapter has that name.
            NotRemovable: The adapter is part of the engine.
        """
        with self._changed:
            entry = self._entry(name)
            if entry.artifact is None:
                raise NotRemovable(
                    f"adapter '{name}' is the one this service was started with; it cannot be removed"
                )
            entry.is_removed = True
            del self._entries[entry.name]
            for each in (entry.name, entry.alias):
                self._names.pop(each or "", None)
            is_free = entry.n_references == 0
        _log.info("adapter.removed", adapter=name, n_requests=entry.n_references)
        if is_free:
            self._residency.free(entry)

    def hold(self, name: str | None, check: Callable[[], None] = lambda: None) -> Held:
        """Hold a reference to an adapter; None and `none` hold none, and give the default pipeline.

        Args:
            name: Name or alias from the request.
            check: Raises once the request has ended; called while waiting for memory.

        Raises:
            UnsupportedOption: No adapter has that name.
        """
        served = self._served.facts.adapter_name
        if name in (None, NO_ADAPTER, served):
            return Held(self._pipeline(self._served.facts, self._prepare), lambda: None)
        with self._changed:
            try:
                entry = self._entry(name)
            except UnknownAdapter as error:
                names = [*itertools.islice(self._entries, MAX_NAMED), NO_ADAPTER]
                raise UnsupportedOption(
                    "adapter", f"'{name[:60]}' is not served here; {' or '.join(names)} is"
                ) from error
            self._residency.acquire(entry)
        facts = replace(entry.facts, adapter_name=name)  # responses name the alias where the request did
        prepare = partial(self._prepare, entry=entry, check=check)
        return Held(self._pipeline(facts, prepare), partial(self._residency.release, entry))

    def make_ready(self, decoding: DecodingOptions) -> None:
        """Load what the base model or the served adapter needs for these options.

        Raises:
            StartupError: A model cannot be converted or loaded.
            NoMemory: Pinned adapters and adapters in use leave no room.
        """
        self._residency.load_more(decoding, None)

    def _pipeline(self, facts: ServingFacts, prepare: Callable[[DecodingOptions], None]) -> Pipeline:
        return Pipeline(
            self._served.engine, self._served.features, facts, base_dir=self._served.base_dir, prepare=prepare
        )

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(self._names.get(name, ""))
        if entry is None:
            raise UnknownAdapter(name)
        return entry

    def _read(self, source: str, told: Told | None) -> Artifact:
        path = find_source(source, self._roots)
        if self._served.base_dir is None:
            raise NotRemovable("adapters cannot be added here")
        return read_adapter(path, self._roots, self._served.base_dir, self._fingerprint, told)

    def _prepare(
        self,
        decoding: DecodingOptions,
        entry: Entry | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Load what a request needs; `entry` is the added adapter that it holds, if any."""
        try:
            if entry is not None:
                self._residency.load(entry, check)
            self._residency.load_more(decoding, entry)
        except StartupError as error:
            what = "the model" if entry is None else f"adapter '{entry.name}'"
            raise EngineError(f"{what} cannot be loaded: {_sentence(error)}") from error


def _described(entry: Entry) -> Adapter:
    return Adapter(
        name=entry.name,
        alias=entry.alias,
        source="" if entry.artifact is None else str(entry.artifact.path),
        language=entry.facts.language,
        pinned=entry.pin,
        loaded=entry.is_loaded,
        memory_bytes=entry.n_bytes,
        served=entry.artifact is None,
        n_requests=entry.n_references,
    )


def _sentence(error: Exception) -> str:
    return without_directories((str(error).strip().splitlines() or ["it cannot be loaded"])[0])[:500]
