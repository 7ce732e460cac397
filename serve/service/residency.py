"""Which adapters of an engine are in memory: loaded on demand, reference counted, evicted by LRU.

What a request holds is never evicted. What is not in memory is loaded in the thread of the request that needs
it, so that no batch of another waits for it.

Memory is counted when it is taken, not when it might be: an engine may keep for an adapter a small model for
its own language and a large one for all else, which most adapters never need. Whatever a request makes the
engine load is taken from the budget first: what belongs to its adapter goes with that; the base model alone,
and more of the adapter that the engine was started with, stay.
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
"""How often a request that waits for room looks whether there is any use in waiting."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False, kw_only=True)
class Entry:
    """A registered adapter; everything below `pin` is guarded by `Residency.changed`."""

    name: str
    alias: str | None
    facts: ServingFacts
    artifact: Artifact | None
    """None for the adapter that is part of the engine."""
    pin: bool
    """Whether it is never evicted."""
    is_loaded: bool = False
    n_bytes: int = 0
    is_removed: bool = False
    n_references: int = 0
    """Requests that hold it."""
    last_used: int = 0
    """Counts up with every use of any adapter."""


class Residency:
    """The adapters in an engine's memory. Any thread may call it; loading takes long."""

    def __init__(self, engine: Engine, budget: MemoryBudget) -> None:
        """Begin with what the engine was loaded with.

        Args:
            engine: What loads adapters.
            budget: Memory of the adapters that are added, and of all else that requests load.
        """
        self.changed = threading.Condition()
        """Guards all entries; notified when memory becomes free or may become free."""
        self.lasting_bytes = 0
        """What was taken from the budget for models that belong to no added adapter."""
        self._engine = engine
        self._budget = budget
        self._loading = threading.Lock()  # held while the engine loads or frees: one at a time
        self._resident: set[Entry] = set()  # in memory, those included that are removed but held
        self._clock = itertools.count(1)

    def acquire(self, entry: Entry) -> None:
        """Add a reference: the adapter will not be evicted."""
        with self.changed:
            entry.n_references += 1
            entry.last_used = next(self._clock)

    def release(self, entry: Entry) -> None:
        """Drop a reference; free the adapter if it is removed and this was the last."""
        with self.changed:
            entry.n_references -= 1
            is_over = entry.is_removed and not entry.n_references
            self.changed.notify_all()
        if is_over:  # whoever releases may be the event loop, and freeing waits for a batch
            threading.Thread(target=self.free, args=(entry,), name="free-adapter", daemon=True).start()

    def free(self, entry: Entry) -> None:
        """Free the memory of an adapter that nobody holds."""
        with self._loading:
            self._unload(entry)

    def load(self, entry: Entry, check: Callable[[], None] | None = None) -> None:
        """Load an adapter unless it is; where there is no room, wait for it as long as `check` allows.

        Raises:
            StartupError: It cannot be converted or loaded.
            NoMemory: There is no room, and no use in waiting.
        """
        if entry.artifact is None or entry.is_loaded:
            return
        # Takes longest where it converts, and holds up nobody.
        n_bytes = self._engine.adapter_bytes(entry.artifact)
        while True:
            with self._loading:
                if entry.is_loaded:
                    return
                if self._make_room(n_bytes):
                    try:
                        self._engine.load_adapter(entry.facts.adapter_key, entry.artifact)
                    except BaseException:
                        self._engine.unload_adapter(entry.facts.adapter_key)  # what there is of it
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
        """Load what the engine still lacks for these options; an adapter that is given is loaded and held.

        For room it frees what nobody holds, and does not wait: whoever waits while holding an adapter may
        wait for somebody who waits for it.

        Raises:
            StartupError: It cannot be converted or loaded.
            NoMemory: There is no room.
        """
        engine = self._engine
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
                with self.changed:
                    self.lasting_bytes += n_lasting
                    if entry is not None:
                        entry.n_bytes += n_loaded - n_lasting

    def _make_room(self, n_bytes: int) -> bool:
        """Take memory, freeing for it what was used longest ago; say whether that was enough."""
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
        """Free the memory of an adapter that nobody holds; `_loading` is held."""
        with self.changed:
            if not entry.is_loaded or entry.n_references:
                return
            n_bytes, entry.is_loaded, entry.n_bytes = entry.n_bytes, False, 0
            self._resident.remove(entry)
        self._engine.unload_adapter(entry.facts.adapter_key)
        return_freed_memory()
        self._budget.give_back(n_bytes)
        _log.info("adapter.unloaded", adapter=entry.name, memory_bytes=n_bytes)
        with self.changed:
            self.changed.notify_all()
