"""Spans of a request by OpenTelemetry: decode, find speech, queue, mel, encode, generate. Off by default.

    begin()                                 # once, where the settings ask for it
    with request("POST /invocations", headers):     # joins the caller's trace by W3C's `traceparent`
        with span("decode"): ...

A window is decoded in an engine's thread, in a batch with windows of other requests: `waiting` notes whose it
is, `batch` records its time in the queue, and each `step` of the batch becomes a span of each request. Where
tracing is off, all of these do nothing. Spans hold no text, no sound and no address.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from serve.errors import ConfigError

T = TypeVar("T")

_NOTHING: AbstractContextManager[None] = nullcontext()
_tracer: Any = None
_collected: ContextVar[list[Step] | None] = ContextVar("collected", default=None)
_batch: ContextVar[tuple[Waiting, ...]] = ContextVar("batch", default=())


@dataclass(frozen=True)
class Step:
    """A step of a batch, in Unix nanoseconds."""

    name: str
    began_ns: int
    ended_ns: int


@dataclass
class Waiting:
    """A window on its way to the engine."""

    context: Any
    """Context of OpenTelemetry that it was queued in."""
    since_ns: int
    """Unix time at which it was queued."""


def begin(processor: Any = None) -> None:
    """Trace from now on.

    Args:
        processor: Where spans go; None sends them to a collector, as OpenTelemetry's own variables say.

    Raises:
        ConfigError: The packages are missing.
    """
    global _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(["traces need packages that are not here: pip install 'shrota[otel]'"]) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "shrota"}))
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("shrota")


def end() -> None:
    """Trace no more."""
    global _tracer
    _tracer = None


@contextmanager
def request(name: str, headers: Mapping[bytes, bytes]) -> Iterator[None]:
    """Record a request as a span, below the caller's where its headers name one."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried = {key: headers.get(key.encode(), b"").decode("latin-1") for key in ("traceparent", "tracestate")}
    context = TraceContextTextMapPropagator().extract({key: value for key, value in carried.items() if value})
    with _tracer.start_as_current_span(name, context, kind=SpanKind.SERVER):
        yield


def span(name: str) -> AbstractContextManager[Any]:
    """Record a step of the request that this thread works for."""
    if _tracer is None:
        return _NOTHING
    whole: AbstractContextManager[Any] = _tracer.start_as_current_span(name)
    return whole


def each(name: str, items: Iterator[T]) -> Iterator[T]:
    """Yield items; record the making of each."""
    while True:
        with span(name):
            item = next(items, None)
        if item is None:
            return
        yield item


def waiting() -> Waiting | None:
    """Note that a window of this thread's request is queued now."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current

    return Waiting(get_current(), time.time_ns())


@contextmanager
def batch(windows: Iterable[Waiting | None]) -> Iterator[None]:
    """Record how long windows waited, and let the steps within count for them."""
    if _tracer is None:
        yield
        return
    kept = tuple(each for each in windows if each is not None)
    for each in kept:
        _record("queue", each.context, each.since_ns)
    token = _batch.set(kept)
    try:
        yield
    finally:
        _batch.reset(token)
        for each in kept:  # a window that is tried again waits again
            each.since_ns = time.time_ns()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Record a step of a batch as a span of every request in it."""
    collected = _collected.get()
    if collected is None and not _batch.get():
        yield
        return
    began_ns = time.time_ns()
    try:
        yield
    finally:
        done = Step(name, began_ns, time.time_ns())
        if collected is None:
            replay([done])
        else:
            collected.append(done)


@contextmanager
def collected() -> Iterator[list[Step]]:
    """Collect the steps within instead of recording them: for a process that knows no requests."""
    steps: list[Step] = []
    token = _collected.set(steps)
    try:
        yield steps
    finally:
        _collected.reset(token)


def replay(steps: Iterable[Step]) -> None:
    """Record steps that were collected elsewhere for the batch of this thread."""
    kept = _batch.get()
    for done in steps if kept else ():
        for each in kept:
            _record(done.name, each.context, done.began_ns, done.ended_ns, n_windows=len(kept))


def _record(name: str, context: Any, began_ns: int, ended_ns: int | None = None, **facts: int) -> None:
    if _tracer is not None:
        _tracer.start_span(name, context, start_time=began_ns, attributes=facts).end(ended_ns)
