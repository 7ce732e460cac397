"""Traces of a real request on a real socket, through the real engine."""

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve.config.settings import Settings
from serve.engine import tracing
from serve.errors import ConfigError
from serve.service.loading import load_pipeline
from tests.waiting import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = {"decode", "find speech", "mel", "queue", "encode", "generate"}


@pytest.fixture
def spans():
    """Finished spans, kept in memory."""
    exporter = InMemorySpanExporter()
    tracing.begin(SimpleSpanProcessor(exporter))
    yield exporter.get_finished_spans
    tracing.end()


def test_each_step_of_a_request_is_a_span_of_its_callers_trace(spans, serve, tiny_artifact_dir, speech_wav):
    running = serve(lambda settings: load_pipeline(tiny_artifact_dir))
    before = len(spans())
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "content-type": "audio/wav"}
    assert running.client.post("/invocations", content=speech_wav, headers=headers).status_code == 200
    wait_until(lambda: any(span.name == "POST /invocations" for span in spans()))
    found = spans()[before:]
    own = [span for span in found if f"{span.context.trace_id:032x}" == TRACE]
    (whole,) = [span for span in own if span.name == "POST /invocations"]
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert {span.name for span in own} == STEPS | {"POST /invocations"}
    for span in own:
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time
        told = {**span.attributes}
        assert all(isinstance(value, int) for value in told.values()), told


def test_requests_without_a_trace_begin_their_own(spans, serve):
    running = serve()
    for _ in range(2):
        running.client.get("/execution-parameters")
    wait_until(lambda: sum(span.name == "GET /execution-parameters" for span in spans()) == 2)
    first, second = (span for span in spans() if span.name == "GET /execution-parameters")
    assert first.parent is second.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_a_window_is_bound_to_nothing_where_tracing_is_off():
    assert tracing.waiting() is None
    assert tracing.span("decode") is tracing.span("mel")
    with tracing.batch([None]), tracing.step("encode"):
        assert np.zeros(1).size == 1
    assert Settings().traces is False


def test_without_its_packages_the_service_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"shrota\[otel\]"):
        tracing.begin()
