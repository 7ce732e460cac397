"""What SageMaker expects of a container that serves, one test to each of its rules.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

from __future__ import annotations

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from select import select

import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

INVOCATIONS = "/invocations"
NDJSON = {"accept": "application/x-ndjson"}
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that a process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue  # closed meanwhile
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


def head_of_a_body(container, n_bytes: int) -> str:
    """Announce a body, send none of it, and return the first line of the answer; empty where none comes."""
    with socket.create_connection(("127.0.0.1", container.port), timeout=60) as connection:
        connection.sendall(
            f"POST {INVOCATIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {n_bytes}\r\n\r\n".encode()
        )
        connection.settimeout(3)
        try:
            return connection.recv(4_096).decode().partition("\r\n")[0]
        except TimeoutError:
            return ""


def test_serve_listens_on_the_port_that_sagemaker_binds_it_to_and_on_no_other(endpoint):
    # So nothing ever lies outside SAGEMAKER_SAFE_PORT_RANGE, whatever that is.
    assert listening_ports(endpoint.process.process.pid) == {endpoint.port}


def test_serve_is_process_1_of_its_container(endpoint):
    command = Path(f"/proc/{endpoint.process.process.pid}/cmdline").read_bytes().split(b"\0")
    assert command[1:3] == [b"-m", b"serve"]


def test_ping_is_503_while_the_model_loads_then_200_without_a_body(endpoint):
    assert endpoint.statuses_of_ping == [503, 200]
    answer = endpoint.client.get("/ping")
    assert (answer.status_code, answer.content) == (200, b"")


def test_nothing_is_written_but_below_tmp(endpoint, speech_wav):
    def snapshot():
        return {path: path.stat().st_mtime_ns for path in [endpoint.base_dir, *endpoint.base_dir.rglob("*")]}

    before = snapshot()
    for query in ("", "?adapter=none", "?word_timestamps=true"):
        assert endpoint.client.post(INVOCATIONS + query, content=speech_wav).status_code == 200
    assert snapshot() == before
    assert list(endpoint.scratch.glob(".cache/shrota/converted/*/model.bin"))  # the model was made there


def test_an_isolated_endpoint_asks_nothing_of_the_world(endpoint, speech_wav):
    assert endpoint.client.post(INVOCATIONS, content=speech_wav).status_code == 200
    asked, _, _ = select([endpoint.outside], [], [], 0)
    assert not asked, endpoint.outside.accept()[0].recv(4_096)


def test_invocations_answers_200_with_its_content_type(endpoint, speech_wav):
    headers = {"content-type": "audio/wav", "accept": "application/json"}
    answer = endpoint.client.post(INVOCATIONS, content=speech_wav, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert {"text", "language", "duration_s", "segments"} <= set(answer.json())


def test_a_body_of_25_megabytes_is_taken(endpoint):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((131 * 48_000, 2), np.int16), 48_000, format="WAV")
    assert len(file.getvalue()) > 25_000_000
    answer = endpoint.client.post(INVOCATIONS, content=file.getvalue())
    assert (answer.status_code, answer.json()["text"]) == (200, "")


def test_a_body_over_the_limit_is_413(endpoint):
    assert head_of_a_body(endpoint, (100 << 20) + 1) == "HTTP/1.1 413 Request Entity Too Large"
    assert head_of_a_body(endpoint, 100 << 20) == ""


def test_where_the_platform_allows_a_gigabyte_so_do_we(transform):
    assert head_of_a_body(transform, 1 << 30) == ""
    assert head_of_a_body(transform, (1 << 30) + 1).startswith("HTTP/1.1 413")


def test_custom_attributes_come_back_as_at_most_1024_visible_characters(endpoint, speech_wav):
    for sent, returned in (("trace-7; language=mr", "trace-7; language=mr"), ("a" * 2_000, "a" * 1_024)):
        answer = endpoint.client.post(INVOCATIONS, content=speech_wav, headers={ATTRIBUTES: sent})
        assert (answer.status_code, answer.headers[ATTRIBUTES]) == (200, returned)
    assert ATTRIBUTES not in endpoint.client.post(INVOCATIONS, content=speech_wav).headers
    refused = endpoint.client.post(INVOCATIONS, content=speech_wav, headers={ATTRIBUTES: "temperature=2"})
    assert (refused.status_code, refused.headers[ATTRIBUTES]) == (400, "temperature=2")


def test_options_travel_in_the_query_the_body_and_custom_attributes(endpoint, speech_wav):
    post = endpoint.client.post
    answers = (
        post(f"{INVOCATIONS}?language=hi", content=speech_wav),
        post(INVOCATIONS, files={"file": speech_wav}, data={"language": "hi"}),
        post(INVOCATIONS, content=speech_wav, headers={ATTRIBUTES: "language=hi"}),
    )
    assert [answer.json()["language"] for answer in answers] == ["hi", "hi", "hi"]
    assert post(INVOCATIONS, content=speech_wav).json()["language"] == "mr"


def test_a_response_stream_is_chunked_lines_of_json_wherever_its_parts_are_cut(endpoint, speech_wav):
    whole = endpoint.client.post(INVOCATIONS, content=speech_wav).json()
    with endpoint.client.stream("POST", INVOCATIONS, content=speech_wav, headers=NDJSON) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["content-type"] == "application/x-ndjson"
        parts = list(answer.iter_bytes(7))  # which cuts letters in two
    events = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert events[0]["type"] == "start" and events[-1]["type"] == "end"
    assert {event["type"] for event in events[1:-1]} == {"segment"}
    assert events[-1]["text"] == whole["text"]


@pytest.mark.parametrize(
    ("headers", "query", "body", "status", "code"),
    [
        ({}, "", b"", 422, "empty_audio"),
        ({}, "", b"not a recording", 415, "undecodable_audio"),
        ({"content-type": "text/csv"}, "", b"1,2", 415, "unsupported_media_type"),
        ({"content-type": "application/json"}, "", b"[]", 400, "bad_request"),
        ({"accept": "image/png"}, "", b"RIFF", 406, "not_acceptable"),
        ({}, "?tempo=2", b"RIFF", 400, "unsupported_option"),
    ],
)
def test_an_error_has_a_status_a_code_and_a_sentence(endpoint, headers, query, body, status, code):
    answer = endpoint.client.post(INVOCATIONS + query, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    error = answer.json()["error"]
    assert error["code"] == code and error["message"] and "Traceback" not in answer.text


def test_metrics_are_prometheus_text_on_the_same_port(endpoint):
    answer = endpoint.client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"shrota_requests", "shrota_request_seconds", "shrota_windows_waiting"} <= families


def test_a_batch_transform_is_told_how_to_send(transform):
    answer = transform.client.get("/execution-parameters")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert set(told) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert told["BatchStrategy"] == "SINGLE_RECORD"
    assert 1 <= told["MaxConcurrentTransforms"] * told["MaxPayloadInMB"] <= 100


def test_as_many_records_at_a_time_as_the_transform_announced_are_all_transcribed(transform, speech_wav):
    with ThreadPoolExecutor(32) as pool:
        sent = [pool.submit(transform.client.post, INVOCATIONS, content=speech_wav) for _ in range(32)]
        answers = [each.result() for each in sent]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["text"] for answer in answers}) == 1
