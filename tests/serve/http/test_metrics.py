"""GET /metrics and /execution-parameters, over a real socket."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * 16_000)) / 16_000)
    soundfile.write(file, tone.astype(np.float32), 16_000, format="WAV")
    return file.getvalue()


def figures(client) -> dict[tuple[str, ...], float]:
    """Every figure by its name and labels, read by Prometheus's own parser."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_answers_recordings_and_errors_are_counted(serve):
    client = serve().client
    before = figures(client)
    for _ in range(2):
        assert client.post("/invocations", content=wav(2), headers={"content-type": "audio/wav"}).is_success
    headers = {"content-type": "audio/wav", "accept": "application/x-ndjson"}
    assert client.post("/invocations", content=wav(1), headers=headers).is_success
    refused = client.post("/invocations?tempo=2", content=wav(1), headers={"content-type": "audio/wav"})
    assert client.get("/secret/<script>").status_code == 404
    after = figures(client)
    assert after["shrota_requests_total", "/invocations", "200"] == 3
    assert after["shrota_requests_total", "/invocations", "400"] == 1
    assert after["shrota_requests_total", "other", "404"] == 1
    assert after["shrota_errors_total", refused.json()["error"]["code"]] == 1
    assert after["shrota_audio_seconds_total",] == pytest.approx(5, abs=0.1)
    assert after["shrota_times_real_time_count",] == 3
    assert after["shrota_request_seconds_count", "/invocations"] == 4
    assert before.get(("shrota_audio_seconds_total",)) == 0
    assert after["process_resident_memory_bytes",] > 1e7
    assert not any("script" in label for labels in after for label in labels)


@pytest.mark.parametrize("multi_model", [False, True])
def test_every_route_has_a_label_and_all_that_clients_invent_share_one(serve, tmp_path, multi_model):
    client = serve(multi_model=multi_model, adapter_roots=str(tmp_path)).client

    def label_of(path):
        before = figures(client)
        client.get(path)
        after = figures(client)
        answers = [key for key in after if key[0] == "shrota_requests_total" and key[1] != "/metrics"]
        (label,) = {key[1] for key in answers if after[key] != before.get(key)}
        return label

    for path in ("/", "/ping", "/execution-parameters"):
        assert label_of(path) == path
    own, others = ("/models", "/adapters") if multi_model else ("/adapters", "/models")
    for path, label in ((own, own), (f"{own}/a", own), (f"{own}/b", own), (others, "other")):
        assert label_of(path) == label
    for path in (
        "/invocations",
        "/invocations-bidirectional-stream",
    ):  # asked by a method that they do not know
        assert label_of(path) == ("other" if multi_model else path)
    for path in ("/pings", "/x/ping", f"{own}x", "/metrics.html", "/{name:str}"):
        assert label_of(path) == "other"
    assert figures(client)["shrota_requests_total", "/metrics", "200"] > 10


def test_the_queue_and_the_engine_are_looked_at_when_somebody_asks(serve):
    running = serve()
    done = figures(running.client)["shrota_windows_total",]
    assert done >= 1  # the warm-up
    running.engine.pace.clear()
    events = running.client.stream(
        "POST",
        "/invocations",
        content=speech(),
        headers={"content-type": "audio/wav", "accept": "text/plain"},
    )
    with events:
        wait_until(lambda: figures(running.client)["shrota_windows_running",] >= 1)
        now = figures(running.client)
        assert now["shrota_requests_admitted",] == 1
        assert (now["shrota_engine_workers",], now["shrota_engine_workers_busy",]) == (1, 1)
        assert now["shrota_windows_total",] == done
        running.engine.pace.set()
    wait_until(lambda: figures(running.client)["shrota_windows_total",] > done)
    after = figures(running.client)
    assert after["shrota_engine_busy_seconds_total",] > 0 and after["shrota_tokens_total",] >= 1
    assert after["shrota_engine_failures_total",] == 0
    running.engine.fault = RuntimeError("kernel")
    broken = running.client.post("/invocations", content=speech(), headers={"content-type": "audio/wav"})
    assert broken.status_code == 500
    after = figures(running.client)
    assert after["shrota_engine_failures_total",] >= 1 and after["shrota_errors_total", "engine_error"] == 1


def speech() -> bytes:
    return (ROOT / "tests" / "data" / "sample-mr.flac").read_bytes()


@pytest.mark.parametrize(
    ("settings", "concurrent", "payload_mib"),
    [({}, 4, 25), ({"max_body_bytes": 2 << 20, "max_requests": 8}, 8, 2), ({"max_body_bytes": 1000}, 16, 1)],
)
def test_a_batch_transform_is_told_what_fits(serve, settings, concurrent, payload_mib):
    answer = serve(**settings).client.get("/execution-parameters")
    assert answer.json() == {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload_mib,
    }
    assert concurrent * payload_mib <= 100
