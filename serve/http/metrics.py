"""Metrics of the service in Prometheus's text format: GET /metrics.

No label holds what a client sent: routes and error codes are the service's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from litestar import Response, get
from litestar.datastructures import State
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serve.engine import Health
from serve.engine.scheduling.figures import Queue, Totals
from serve.transcript.events import LiveEvent, LiveWords

LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800)
SPEED_BUCKETS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)
"""Seconds of recording transcribed in one second of work."""

LAG_BUCKETS_S = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)

OTHER_ROUTE = "other"
"""Label for all paths that match no route."""


class Metrics:
    """The service's counters and histograms."""

    def __init__(
        self,
        queue: Callable[[], Queue],
        totals: Callable[[], Totals],
        health: Callable[[], Sequence[Health]],
    ) -> None:
        """Create the metrics; the functions are called at each scrape."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "shrota_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._latency_s = Histogram(
            "shrota_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._errors = Counter(
            "shrota_errors", "Requests that ended with an error.", ["code"], registry=self._registry
        )
        self._audio_s = Counter("shrota_audio_seconds", "Recordings transcribed.", registry=self._registry)
        self._speed = Histogram(
            "shrota_times_real_time",
            "Seconds of recording transcribed in a second, waiting included, by request.",
            buckets=SPEED_BUCKETS,
            registry=self._registry,
        )
        self._live_lag_s = Histogram(
            "shrota_live_lag_seconds",
            "From when a word was spoken until the event that has it, committed or partial.",
            ["text"],
            buckets=LAG_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_SchedulerCollector(queue, totals, health))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a response and its latency; `route` is a route of the service or `OTHER_ROUTE`."""
        self._requests.labels(route, str(status)).inc()
        self._latency_s.labels(route).observe(seconds)

    def failed(self, code: str) -> None:
        """Count a request that ended with an error, in its status or in its stream."""
        self._errors.labels(code).inc()

    def transcribed(self, audio_s: float, processing_s: float | None) -> None:
        """Count a recording that was transcribed completely, in seconds of audio and of work."""
        self._audio_s.inc(audio_s)
        if processing_s:
            self._speed.observe(audio_s / processing_s)

    def heard_live(self, event: LiveEvent) -> None:
        """Count the lag of the words of a live session."""
        if isinstance(event, LiveWords) and (event.committed or event.partial):
            self._live_lag_s.labels("committed" if event.committed else "partial").observe(event.lag_s)

    def page(self) -> bytes:
        return generate_latest(self._registry)


@get("/metrics", summary="Figures for Prometheus", sync_to_thread=False)
def metrics(state: State) -> Response[bytes]:
    return Response(state.metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _SchedulerCollector:
    """Reads the scheduler's metrics at each scrape."""

    def __init__(
        self,
        queue: Callable[[], Queue],
        totals: Callable[[], Totals],
        health: Callable[[], Sequence[Health]],
    ) -> None:
        self._queue, self._totals, self._health = queue, totals, health

    def collect(self) -> Iterator[Metric]:
        queue, totals, health = self._queue(), self._totals(), self._health()
        yield GaugeMetricFamily(
            "shrota_requests_admitted", "Requests admitted and not finished.", queue.n_admitted
        )
        yield GaugeMetricFamily("shrota_windows_waiting", "Windows waiting in the queue.", queue.n_waiting)
        yield GaugeMetricFamily(
            "shrota_windows_waiting_seconds",
            "Estimated engine time for the waiting windows.",
            queue.waiting_s,
        )
        yield GaugeMetricFamily("shrota_windows_running", "Windows being decoded.", queue.n_running)
        yield GaugeMetricFamily(
            "shrota_engine_workers",
            "Engine workers: batches that can be decoded at the same time.",
            queue.n_workers,
        )
        yield GaugeMetricFamily(
            "shrota_engine_workers_busy", "Engine workers that are decoding a batch.", queue.n_busy_workers
        )
        yield CounterMetricFamily(
            "shrota_engine_restarts",
            "Times that an engine's process ended and was replaced.",
            sum(each.n_restarts for each in health),
        )
        yield GaugeMetricFamily(
            "shrota_engine_memory_bytes",
            "Resident memory of the engines' processes.",
            sum(each.memory_bytes for each in health),
        )
        yield CounterMetricFamily("shrota_batches", "Batches decoded.", totals.n_batches)
        yield CounterMetricFamily("shrota_windows", "Windows decoded.", totals.n_windows)
        yield CounterMetricFamily(
            "shrota_window_seconds", "Total length of the decoded windows.", totals.window_s
        )
        yield CounterMetricFamily("shrota_tokens", "Tokens generated.", totals.n_tokens)
        yield CounterMetricFamily(
            "shrota_fallback_windows",
            "Windows whose text was sampled, because no likelier one passed the checks.",
            totals.n_fallbacks,
        )
        yield CounterMetricFamily("shrota_engine_failures", "Batches that failed.", totals.n_failures)
        yield CounterMetricFamily(
            "shrota_engine_busy_seconds", "Time spent decoding batches, summed over workers.", totals.busy_s
        )
