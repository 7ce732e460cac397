"""A registry of adapters whose engine only counts what it is told to load."""

from __future__ import annotations

import shutil

import pytest

from serve.engine import CPU_BATCH
from serve.pipeline import Pipeline, ServingFacts
from serve.service.adapters import Adapters
from serve.service.memory import MemoryBudget


class Shelf:
    """An engine that keeps adapters of 10 bytes each."""

    languages = frozenset({"mr", "hi"})
    n_workers = 1
    usual_batch = CPU_BATCH
    fault: Exception | None = None

    def __init__(self):
        self.loaded = []

    def adapter_bytes(self, artifact):
        if self.fault:
            raise self.fault
        return 10

    def load_adapter(self, key, artifact):
        assert key not in self.loaded
        self.loaded.append(key)

    def unload_adapter(self, key):
        self.loaded.remove(key)

    def has_lost(self, key):
        return key not in self.loaded

    def bytes_to_load(self, options):
        return 0

    def unsupported(self, options): ...


@pytest.fixture
def sources(tmp_path, tiny_artifact_dir):
    """Four directories of adapters."""
    return [str(shutil.copytree(tiny_artifact_dir, tmp_path / f"source-{n}")) for n in range(4)]


@pytest.fixture
def make(tmp_path, tiny_base_dir):
    def make(limit_bytes=None, **others):
        facts = ServingFacts(adapter_name="first", language="hi")
        pipeline = Pipeline(Shelf(), None, facts, base_dir=tiny_base_dir)
        return Adapters(pipeline, roots=[tmp_path], budget=MemoryBudget(limit_bytes), **others)

    return make
