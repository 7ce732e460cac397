"""The adapters of one base model: added, held by requests, evicted, removed. Knows no HTTP.

    adapters = Adapters(pipeline, roots=[Path("/opt/ml")], budget=MemoryBudget(2**30))
    adapters.add("hindi", "/opt/ml/adapters/hindi")                 # in a thread of its own: it may take long
    with adapters.hold("hindi", ticket.check) as held:
        held.pipeline.transcribe(...)                               # by the manifest of that adapter

A request holds its adapter from the check of its options to its end. What is held is never evicted, and what
is removed serves those that hold it before it is freed. What is not in memory is loaded in the thread of the
request that needs it, so that no batch of another waits for it.

Memory is counted when it is taken, not when it might be: an engine may keep for an adapter a small model for
its own language and a large one for all else, which most adapters never need. Whatever a request makes the
engine load is taken from the budget first: what belongs to its adapter goes with that; the base model alone,
and more of the adapter that the engine was started with, stay.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import msgspec
import structlog

from serve.engine import DecodingOptions
from serve.engine.closing import Closing
from serve.errors import (
    AdapterExists,
    BadAdapter,
    EngineError,
    NoMemory,
    NotRemovable,
    RequestError,
    StartupError,
    UnknownAdapter,
    UnsupportedOption,
)
from serve.model.adapter_source import find_source, read_adapter
from serve.model.allocator import return_freed_memory
from serve.model.artifact import Artifact
from serve.model.base_model import base_fingerprint
from serve.options import NO_ADAPTER
from serve.pipeline import Pipeline, ServingFacts
from serve.service.loading import serving_facts
from serve.service.memory import MemoryBudget

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")

ROOM_POLL_S = 1.0
"""How often a request that waits for room looks whether there is any use in waiting."""

MAX_NAMED = 10
"""Adapters that an error names."""

_log = structlog.get_logger(__name__)


class Adapter(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "src", "n_requests": "requests"}):
    """What is known of a registered adapter; also the JSON body that `/adapters` answers."""

    name: str
    alias: str | None
    source: str
    """Directory that it was loaded from."""
    language: str | None
    pinned: bool
    """Whether it stays in memory."""
    loaded: bool
    memory_bytes: int
    """0 for an adapter that is not loaded, or that the service was started with."""
    served: bool
    """Whether requests that name no adapter use this one."""
    n_requests: int
    """Requests that are using it."""


@dataclass(eq=False, kw_only=True)
class _Entry:
    """An adapter; everything below `pin` is guarded by the registry's lock."""

    name: str
    alias: str | None
    facts: ServingFacts
    artifact: Artifact | None
    """None of the one that is part of the engine."""
    pin: bool
    is_loaded: bool = False
    n_bytes: int = 0
    is_removed: bool = False
    n_holders: int = 0
    used: int = 0
    """Counts up with every use of any."""


class Held(Closing):
    """A hold on an adapter, and the pipeline that follows its manifest. A context manager."""

    def __init__(self, pipeline: Pipeline, let_go: Callable[[], None]) -> None:
        """Only `Adapters.hold` makes these."""
        self.pipeline = pipeline
        self._let_go: Callable[[], None] | None = let_go

    def close(self) -> None:
        """Let go; any number of times."""
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()


class Adapters:
    """A registry. Any thread may call it; `add` and `remove` may take long."""

    def __init__(
        self, pipeline: Pipeline, *, roots: Iterable[Path] = (), budget: MemoryBudget | None = None
    ) -> None:
        """Register the adapter that the engine was loaded with, under its own name.

        Args:
            pipeline: Of the base model, and of what requests mean that name nothing.
            roots: Directories that adapters may be loaded from.
            budget: Memory of the adapters that are added, and of all else that requests load.
        """
        self._served = pipeline
        self._roots = tuple(roots)
        self._budget = budget or MemoryBudget()
        self._changed = threading.Condition()
        self._loading = threading.Lock()  # held while the engine loads or frees: one at a time
        self._entries: dict[str, _Entry] = {}
        self._resident: set[_Entry] = set()  # in memory, those included that are removed but held
        self._lasting_bytes = 0
        self._names: dict[str, str] = {}  # names and aliases, those included that are being added
        self._clock = itertools.count(1)
        self._keys = itertools.count(1)
        if (name := pipeline.facts.adapter_name) is not None:
            entry = _Entry(
                name=name, alias=None, facts=pipeline.facts, artifact=None, pin=True, is_loaded=True
            )
            self._entries[name] = entry
            self._names[name] = name

    @property
    def pipeline(self) -> Pipeline:
        """Of requests that name nothing."""
        return self._served

    @property
    def lasting_bytes(self) -> int:
        """What was taken from the budget for models that belong to no added adapter."""
        return self._lasting_bytes

    @cached_property
    def _fingerprint(self) -> str:
        assert self._served.base_dir is not None
        return base_fingerprint(self._served.base_dir)

    def add(
        self, name: str, source: str, *, preload: bool = True, pin: bool = False, alias: str | None = None
    ) -> Adapter:
        """Register an adapter, and load it unless that is to wait for its first request.

        Raises:
            RequestError: A name cannot be one.
            AdapterExists: A name is taken.
            UnknownPath: There is nothing that may be loaded.
            BadAdapter: Its files are damaged, or do not fit the base model.
            NoMemory: The adapters that are pinned or in use leave no room.
        """
        names = [each for each in dict.fromkeys((name, alias)) if each is not None]
        for each in names:
            if not NAME.fullmatch(each) or each == NO_ADAPTER:
                raise RequestError(
                    "the name of an adapter has up to 200 letters, digits, dots, colons, dashes and"
                    f" underlines, and is not '{NO_ADAPTER}'"
                )
        with self._changed:
            for each in names:
                if each in self._names:
                    raise AdapterExists(each)
            self._names.update(dict.fromkeys(names, name))
        try:
            artifact = self._read(source)
            facts = serving_facts(artifact, name=name, key=f"{name}#{next(self._keys)}")
            entry = _Entry(
                name=name,
                alias=alias if alias != name else None,
                facts=facts,
                artifact=artifact,
                pin=pin,
            )
            if preload or pin:
                self._load(entry)
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

    def all(self) -> list[Adapter]:
        """Return what is registered, in the order of its coming."""
        with self._changed:
            return [_described(entry) for entry in self._entries.values()]

    def get(self, name: str) -> Adapter:
        """Return what is known of one.

        Raises:
            UnknownAdapter: There is none of that name.
        """
        with self._changed:
            return _described(self._entry(name))

    def remove(self, name: str) -> None:
        """Take an adapter away from requests to come, and free it once nobody holds it.

        Raises:
            UnknownAdapter: There is none of that name.
            NotRemovable: It is part of the engine.
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
            is_free = entry.n_holders == 0
        _log.info("adapter.removed", adapter=name, n_requests=entry.n_holders)
        if is_free:
            self._free(entry)

    def hold(self, name: str | None, check: Callable[[], None] = lambda: None) -> Held:
        """Hold an adapter by its name or alias; None and `none` hold nothing, and give what is served.

        Args:
            name: As the request has it.
            check: Raises where there is no use in waiting for memory.

        Raises:
            UnsupportedOption: There is none of that name.
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
            entry.n_holders += 1
            entry.used = next(self._clock)

        facts = replace(entry.facts, adapter_name=name)  # an alias may be the name it is asked for by
        prepare = partial(self._prepare, entry=entry, check=check)
        return Held(self._pipeline(facts, prepare), lambda: self._let_go(entry))

    def make_ready(self, decoding: DecodingOptions) -> None:
        """Load what the base model, or the adapter that the engine was started with, needs for these options.

        Raises:
            StartupError: It cannot be converted or loaded.
            NoMemory: The adapters that are pinned or in use leave no room.
        """
        self._load_more(decoding, None)

    def _pipeline(self, facts: ServingFacts, prepare: Callable[[DecodingOptions], None]) -> Pipeline:
        return Pipeline(
            self._served.engine, self._served.features, facts, base_dir=self._served.base_dir, prepare=prepare
        )

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(self._names.get(name, ""))
        if entry is None:
            raise UnknownAdapter(name)
        return entry

    def _read(self, source: str) -> Artifact:
        path = find_source(source, self._roots)
        if self._served.base_dir is None:
            raise NotRemovable("adapters cannot be added here")
        return read_adapter(path, self._roots, self._served.base_dir, self._fingerprint)

    def _prepare(
        self,
        decoding: DecodingOptions,
        entry: _Entry | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Load what a request needs, which holds an adapter; None is what was there at the start."""
        try:
            if entry is not None:
                self._load(entry, check)
            self._load_more(decoding, entry)
        except StartupError as error:
            what = "the model" if entry is None else f"adapter '{entry.name}'"
            raise EngineError(f"{what} cannot be loaded: {_sentence(error)}") from error

    def _load(self, entry: _Entry, check: Callable[[], None] | None = None) -> None:
        """Load an adapter unless it is; where there is no room, wait for it as long as `check` allows.

        Raises:
            StartupError: It cannot be converted or loaded.
            NoMemory: There is no room, and no use in waiting.
        """
        if entry.artifact is None or entry.is_loaded:
            return
        engine = self._served.engine
        n_bytes = engine.adapter_bytes(entry.artifact)  # takes longest where it converts, and holds up nobody
        while True:
            with self._loading:
                if entry.is_loaded:
                    return
                if self._make_room(n_bytes):
                    try:
                        engine.load_adapter(entry.facts.adapter_key, entry.artifact)
                    except BaseException:
                        engine.unload_adapter(entry.facts.adapter_key)  # what there is of it
                        self._budget.give_back(n_bytes)
                        raise
                    with self._changed:
                        entry.is_loaded, entry.n_bytes = True, n_bytes
                        self._resident.add(entry)
                    return
                with self._changed:
                    in_use_bytes = sum(each.n_bytes for each in self._resident if not each.pin)
            if check is None or not self._budget.fits(n_bytes, in_use_bytes):
                raise NoMemory(n_bytes, self._budget.limit_bytes, self._budget.taken_bytes)
            check()
            with self._changed:
                self._changed.wait(ROOM_POLL_S)

    def _load_more(self, decoding: DecodingOptions, entry: _Entry | None) -> None:
        """Load what the engine still lacks for these options; an adapter that is given is loaded and held.

        For room it frees what nobody holds, and does not wait: whoever waits while holding an adapter may
        wait for somebody who waits for it.

        Raises:
            StartupError: It cannot be converted or loaded.
            NoMemory: There is no room.
        """
        engine = self._served.engine
        if not engine.bytes_to_load(decoding):  # takes longest where it converts, and holds up nobody
            return
        with self._loading:
            n_bytes = engine.bytes_to_load(decoding)
            if not n_bytes:  # another request was faster
                return
            if not self._make_room(n_bytes):
                raise NoMemory(n_bytes, self._budget.limit_bytes, self._budget.taken_bytes)
            n_before, n_loaded = engine.base_bytes(), 0
            try:
                engine.make_ready(decoding)
                n_loaded = n_bytes
            finally:
                n_base = engine.base_bytes() - n_before
                n_loaded = max(n_loaded, n_base)  # the base may be there although the adapter failed
                self._budget.give_back(n_bytes - n_loaded)
                n_lasting = n_loaded if entry is None else n_base
                with self._changed:
                    self._lasting_bytes += n_lasting
                    if entry is not None:
                        entry.n_bytes += n_loaded - n_lasting

    def _make_room(self, n_bytes: int) -> bool:
        """Take memory, freeing for it what was used longest ago; say whether that was enough."""
        with self._changed:
            idle = [entry for entry in self._resident if not entry.pin and not entry.n_holders]
            idle.sort(key=lambda entry: entry.used)
            if not self._budget.fits(n_bytes, sum(entry.n_bytes for entry in idle)):
                return False
        for entry in idle:
            if self._budget.take(n_bytes):
                return True
            self._unload(entry)
        return self._budget.take(n_bytes)

    def _unload(self, entry: _Entry) -> None:
        """Free the memory of an adapter that nobody holds; `_loading` is held."""
        with self._changed:
            if not entry.is_loaded or entry.n_holders:
                return
            n_bytes, entry.is_loaded, entry.n_bytes = entry.n_bytes, False, 0
            self._resident.remove(entry)
        self._served.engine.unload_adapter(entry.facts.adapter_key)
        return_freed_memory()
        self._budget.give_back(n_bytes)
        _log.info("adapter.unloaded", adapter=entry.name, memory_bytes=n_bytes)
        with self._changed:
            self._changed.notify_all()

    def _free(self, entry: _Entry) -> None:
        with self._loading:
            self._unload(entry)

    def _let_go(self, entry: _Entry) -> None:
        with self._changed:
            entry.n_holders -= 1
            is_over = entry.is_removed and not entry.n_holders
            self._changed.notify_all()
        if is_over:  # whoever lets go may be the event loop, and freeing waits for a batch
            threading.Thread(target=self._free, args=(entry,), name="free-adapter", daemon=True).start()


def _described(entry: _Entry) -> Adapter:
    return Adapter(
        name=entry.name,
        alias=entry.alias,
        source="" if entry.artifact is None else str(entry.artifact.path),
        language=entry.facts.language,
        pinned=entry.pin,
        loaded=entry.is_loaded,
        memory_bytes=entry.n_bytes,
        served=entry.artifact is None,
        n_requests=entry.n_holders,
    )


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["it cannot be loaded"])[0][:500]
