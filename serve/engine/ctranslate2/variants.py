"""The converted models of an engine: found or converted, loaded on first use, freed.

An adapter has up to three: one with the tokens of its scripts alone, for windows in its own language; one
with all tokens, for what the first cannot read or write; and the base model, shared by all adapters.
Knows no windows and no options.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.engine import SERVED_ADAPTER
from serve.engine.ctranslate2.merging import WEIGHTS, Storage, converted_model
from serve.engine.ctranslate2.model import CT2Model
from serve.model.artifact import Artifact
from serve.model.completed import completed_checkpoint

SMALL_MODEL_WIDTH = 768
"""Up to whisper-small a second thread gains nothing: a decoding step is too short to split."""

LARGE_MODEL_THREADS = 4
MAX_WORKERS = 8

Compute = Literal["int8", "int8_float16", "float16", "float32"]


@dataclass(frozen=True)
class Variant:
    """Names one converted model."""

    adapter: str | None
    """Key of the adapter; None for the base model alone."""
    few_tokens: bool = False


BASE = Variant(None)
ADAPTED, FEW_TOKENS = Variant(SERVED_ADAPTER), Variant(SERVED_ADAPTER, few_tokens=True)

Find = Callable[[], Path]
"""Returns the directory of a converted model, converting it first if needed."""

Convert = Callable[[Artifact | None, bool], Find]
"""(artifact or None for the base model alone, few tokens) -> how to find that model."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How a model's threads are divided among workers, which each decode their own batches."""

    count: int = 1
    threads: int = 1
    """Threads of each worker."""

    @classmethod
    def of(cls, d_model: int, n_threads: int, device: str) -> Workers:
        """Divide threads: a GPU takes one batch at a time, a CPU as many as its threads serve well."""
        if device == "cuda":
            return cls(threads=n_threads)
        threads = 1 if d_model <= SMALL_MODEL_WIDTH else min(n_threads, LARGE_MODEL_THREADS)
        return cls(count=min(MAX_WORKERS, n_threads // threads), threads=threads)


class Variants:
    """The models of one engine by `Variant`. Thread-safe."""

    def __init__(
        self, directories: dict[Variant, Find], *, device: str, compute: Compute, workers: Workers
    ) -> None:
        """Store how to find each model; load none yet.

        Args:
            directories: Always holds `BASE`; `ADAPTED` where there is an adapter, and `FEW_TOKENS` where its
                scripts are known.
        """
        self.directories = directories
        self.loaded: dict[Variant, CT2Model] = {}
        self.device = device
        self.workers = workers
        self._compute = compute
        self._loading: dict[Variant, threading.Lock] = defaultdict(threading.Lock)
        self._n_uses: Counter[str | None] = Counter()  # batches by adapter
        self._changed = threading.Condition()

    def usual(self, adapter: str | None) -> Variant:
        """Return the variant that most of an adapter's windows need."""
        few_tokens = Variant(adapter, few_tokens=True)
        return few_tokens if few_tokens in self.directories else Variant(adapter)

    def model(self, variant: Variant) -> CT2Model:
        """Return a model; load it on first use.

        Raises:
            StartupError: The model cannot be converted or loaded.
        """
        if (model := self.loaded.get(variant)) is not None:
            return model
        with self._changed:
            loading = self._loading[variant]  # a lock each: a slow load does not block other models
        with loading:
            if variant not in self.loaded:
                self.loaded[variant] = self._load(variant, self.workers.count)
            return self.loaded[variant]

    def fresh(self, variant: Variant) -> CT2Model:
        """Load a separate copy of a model with one worker, for the caller alone."""
        return self._load(variant, 1)

    def bytes_to_load(self, variants: Iterable[Variant]) -> int:
        """Return the bytes that loading these variants will add. Converts what is not converted yet."""
        missing = [variant for variant in variants if variant not in self.loaded]
        return sum(weights_bytes(self.directories[variant]) for variant in missing)

    @contextmanager
    def in_use(self, adapter: str | None) -> Iterator[None]:
        """Keep the models of an adapter from being freed while a batch runs."""
        with self._changed:
            self._n_uses[adapter] += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_uses[adapter] -= 1
                self._changed.notify_all()

    def drop(self, adapter: str) -> None:
        """Free the models of an adapter once no batch uses them. The key is invalid afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: not self._n_uses[adapter])
        self._n_uses.pop(adapter, None)
        for variant in (Variant(adapter), Variant(adapter, few_tokens=True)):
            self.loaded.pop(variant, None)
            self.directories.pop(variant, None)
            self._loading.pop(variant, None)

    def _load(self, variant: Variant, n_workers: int) -> CT2Model:
        return CT2Model(
            self.directories[variant](),
            device=self.device,
            compute=self._compute,
            n_workers=n_workers,
            threads_per_worker=self.workers.threads,
        )


def converter(base_dir: Path, storage: Storage, cache_dir: Path | None) -> Convert:
    """Return a function that finds or converts the models of a base, cached in `cache_dir`."""

    def convert(artifact: Artifact | None, few_tokens: bool) -> Find:
        if artifact is not None and artifact.kind in ("checkpoint", "ctranslate2"):
            whole, like = artifact.path, base_dir
            return lambda: converted_model(
                completed_checkpoint(whole, like=like, cache_dir=cache_dir),
                None,
                storage,
                cache_dir=cache_dir,
            )
        scripts = artifact.manifest.scripts if artifact is not None and few_tokens else None
        return lambda: converted_model(base_dir, artifact, storage, scripts=scripts, cache_dir=cache_dir)

    return convert


def variants_of(adapter: str, artifact: Artifact, convert: Convert) -> dict[Variant, Find]:
    found = {Variant(adapter): convert(artifact, False)}
    if writes_few_tokens(artifact):
        found[Variant(adapter, few_tokens=True)] = convert(artifact, True)
    return found


def writes_few_tokens(artifact: Artifact) -> bool:
    """Tell whether an adapter's model can be reduced to few tokens."""
    return artifact.manifest.few_token_scripts is not None


def weights_bytes(find: Find) -> int:
    """Return the size of a converted model's weights, in bytes."""
    return (find() / WEIGHTS).stat().st_size
