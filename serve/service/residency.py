"""Which adapters of an engine are in memory: loaded on demand, reference counted, LRU evicted.

A held adapter is never evicted. An adapter is loaded in the thread of the request that needs it, so that no
other request's batch waits.

Memory is counted when it is taken, not when it might be. An engine may keep two models of an adapter: a small
one for its own language, and a large one for everything else, which most adapters never need. Whatever a
request makes the engine load is taken from the budget first. An adapter's share is given back with the
adapter; the base model alone, and further models of the adapter that the engine was started with, stay.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from serve.engine import DecodingOptions, Engine
from serve.errors import NoMemory
from serve.model.allocator import return_freed_memory
from serve.model.artifact import Artifact
from serve.pipeline import ServingFacts
from serve.service.memory import MemoryBudget

ROOM_POLL_S = 1.0
"""How often a request that waits for memory checks whether it has ended, in seconds."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False, kw_only=True)
class Entry:
    """A registered adapter; `Residency.changed` guards all fields below `pin`."""

    name: str
    alias: str | None
    facts: ServingFacts
    artifact: Artifact | None
    """None for the adapter that the engine was loaded with."""
    pin: bool
    """Whether the adapter is never evicted."""
    is_loaded: bool = False
    n_bytes: int = 0
    is_removed: bool = False
    n_references: int = 0
    """Reference count: requests that hold the adapter."""
    last_used: int = 0
    """Logical time of the last use, for LRU eviction."""


class Residency:
    """The adapters in an engine's memory. Thread-safe; loading takes long."""

    def __init__(self, engine: Engine, budget: MemoryBudget) -> None:
        """Start with the adapter that the engine was loaded with.

        Args:
            engine: Loads and frees adapters.
            budget: Memory for added adapters and for whatever else requests load.
        """
        self.changed = threading.Condition()
        """Guards all entries; notified when memory was freed, or could now be freed."""
        self.lasting_bytes = 0
        """Bytes taken from the budget for models that belong to no added adapter."""
        self._engine = engine
        self._budget = budget
        self._loading = threading.Lock()  # held while the engine loads or frees an adapter
        self._resident: set[Entry] = set()  # adapters in memory, removed ones that are still held included
        self._clock = itertools.count(1)

    def acquire(self, entry: Entry) -> None:
        """Add a reference, so that the adapter is not evicted."""
        with self.changed:
            entry.n_references += 1
            entry.last_used = next(self._clock)

    def release(self, entry: Entry) -> None:
        """Drop a reference; free a removed adapter with its last one."""
        with self.changed:
            entry.n_references -= 1
            is_over = entry.is_removed and not entry.n_references
            self.changed.notify_all()
        if is_over:  # the event loop may be releasing, and freeing waits for a batch
            threading.Thread(target=self.free, args=(entry,), name="free-adapter", daemon=True).start()

    def free(self, entry: Entry) -> None:
        """Free the memory of an adapter without references."""
        with self._loading:
            self._unload(entry)

    def load(self, entry: Entry, check: Callable[[], None] | None = None) -> None:
        """Load an adapter unless it is in memory; wait for room until `check` raises.

        Raises:
            StartupError: The adapter cannot be converted or loaded.
            NoMemory: There is no room, and waiting would not help.
        """
        if entry.artifact is None or self._is_there(entry):
            return
        # A conversion takes longest, so it runs outside the lock.
        n_bytes = self._engine.adapter_bytes(entry.artifact)
        while True:
            with self._loading:
                if self._is_there(entry):
                    return
                self._budget.give_back(self._forget(entry))  # of an adapter that the engine has lost
                if self._make_room(n_bytes):
                    try:
                        self._engine.load_adapter(entry.facts.adapter_key, entry.artifact)
                    except BaseException:
                        self._engine.unload_adapter(entry.facts.adapter_key)  # drop partial state
                        self._budget.give_back(n_bytes)
                        raise
                    with self.changed:
                        entry.is_loaded, entry.n_bytes = True, n_bytes
                        self._resident.add(entry)
                    return
                with self.changed:
                    in_use_bytes = sum(each.n_bytes for each in self._resident if not each.pin)
            if check is None or not self._budget.fits(n_bytes, in_use_bytes):
                raise NoMemory(n_bytes, self._budget.limit_bytes, self._budget.taken_bytes)
            check()
            with self.changed:
                self.changed.wait(ROOM_POLL_S)

    def load_more(self, decoding: DecodingOptions, entry: Entry | None) -> None:
        """Load the further models that these options need; `entry`, if given, is loaded and held.

        Evicts adapters without references to make room, but never waits for room: a request that waits while
        it holds an adapter could deadlock with another.

        Raises:
            StartupError: A model cannot be converted or loaded.
            NoMemory: There is no room.
        """
        engine = self._engine
        if not engine.bytes_to_load(decoding):  # converts if needed, outside the lock
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
                n_loaded = max(n_loaded, n_base)  # the base may be loaded even if the adapter failed
                self._budget.give_back(n_bytes - n_loaded)
                n_lasting = n_loaded if entry is None else n_base
                with self.changed:
                    self.lasting_bytes += n_lasting
                    if entry is not None:
                        entry.n_bytes += n_loaded - n_lasting

    def _make_room(self, n_bytes: int) -> bool:
        """Take bytes from the budget, evicting the least recently used adapters; return whether they fit."""
        with self.changed:
            idle = [entry for entry in self._resident if not entry.pin and not entry.n_references]
            idle.sort(key=lambda entry: entry.last_used)
            if not self._budget.fits(n_bytes, sum(entry.n_bytes for entry in idle)):
                return False
        for entry in idle:
            if self._budget.take(n_bytes):
                return True
            self._unload(entry)
        return self._budget.take(n_bytes)

    def _unload(self, entry: Entry) -> None:
        """Free an adapter without references; the caller holds `_loading`."""
        with self.changed:
            if not entry.is_loaded or entry.n_references:
                return
            n_bytes = self._forget(entry)
        self._engine.unload_adapter(entry.facts.adapter_key)
        return_freed_memory()
        self._budget.give_back(n_bytes)
        _log.info("adapter.unloaded", adapter=entry.name, memory_bytes=n_bytes)
        with self.changed:
            self.changed.notify_all()

    def _is_there(self, entry: Entry) -> bool:
        return entry.is_loaded and not self._engine.has_lost(entry.facts.adapter_key)

    def _forget(self, entry: Entry) -> int:
        """Note that an adapter is no longer loaded; return the bytes that it took of the budget."""
        with self.changed:
            n_bytes, entry.is_loaded, entry.n_bytes = entry.n_bytes, False, 0
            self._resident.discard(entry)
        return n_bytes
