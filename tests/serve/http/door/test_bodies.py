"""Bodies that are made to hurt: JSON, forms, and those that hardly arrive."""

import json
import socket

import httpx
import pytest

from tests.waiting import wait_until

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"audio": "\xff"}',
        b"[" * 18_000,
        b'{"audio": ' + b"[" * 18_000,
        b'{"audio": "", "x": ' + b"[1]," * 1_000_000,
        b'{"audio": "", "x": [' + b"1," * 5_000_000 + b"1]}",
        b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b"}",
        b'{"audio": "AAAA", "prompt": "\\ud800"}',
        b'{"audio": "AAAA", "\\udfff": "x"}',
        b'{"audio": "AAAA", "beam_size": ' + b"9" * 10_000 + b"}",
        b'{"audio": "AAAA", "beam_size": 1e999999}',
        b'{"audio": {"a": {"b": []}}}',
        b'{"audio": "' + b"\\" * 1_000 + b'"}',
        b"null",
        b"",
        b"\x00",
    ],
)
def test_odd_json_is_400(shared, body):
    for path in ("/invocations", "/adapters"):
        response = shared.client.post(path, content=body, headers=JSON)
        assert (response.status_code, path) == (
            400 if path == "/invocations" or len(body) < 65_536 else 413,
            path,
        )
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    "charset", ["foo", "undefined", "a\0b", "utf-7", "idna", "zip_codec", "unicode_escape"]
)
def test_a_field_in_an_odd_charset_is_400(shared, charset):
    value = "+2AA-" if charset == "utf-7" else "mr"
    body = (
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b\r\n'
        f'Content-Disposition: form-data; name="language"\r\n'
        f'Content-Type: text/plain; charset="{charset}"\r\n\r\n'
        f"{value}\r\n--b--\r\n"
    ).encode()
    for path in ("/invocations", "/v1/audio/transcriptions"):
        assert shared.client.post(path, content=body, headers=FORM).status_code == 400


@pytest.mark.parametrize(
    "part",
    [
        b"\r\n" * 200_000,
        b"\r\n--" * 200_000,
        b'Content-Disposition: form-data; name="a"\r\n\r\nx\r\n--b\r\n' * 300,
        b"X: y\r\n" * 100_000,
        b'Content-Disposition: form-data; name="prompt"\r\n\r\n' + b"a" * 200_000,
        b"Content-Disposition: form-data; name=" + b'"' * 100_000,
    ],
)
def test_a_form_of_odd_parts_is_refused(shared, part):
    body = b"--b\r\n" + part + b"\r\n--b--\r\n"
    response = shared.client.post("/invocations", content=body, headers=FORM)
    assert response.status_code in (400, 413, 415, 422)


def test_bodies_that_hardly_arrive_hold_no_place(serve, speech_wav):
    running = serve(max_requests=1, body_idle_timeout_s=0.5)
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nR"
    slow = [socket.create_connection(running.address, timeout=30) for _ in range(20)]
    for connection in slow:
        connection.sendall(head)
    assert running.client.post("/invocations", content=speech_wav).status_code == 200
    for connection in slow:
        assert b" 408 " in connection.recv(4_096)
        connection.close()
    assert running.service.n_admitted == 0


def test_arriving_bodies_share_an_allowance_with_a_part_for_small_ones(serve, speech_wav):
    running = serve(max_arriving_bytes=8 << 20)
    arriving = running.server.config.app._app.state.arriving
    with socket.create_connection(running.address, timeout=30) as large:
        large.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 6291456\r\n\r\n" + bytes(5 << 20)
        )
        wait_until(lambda: arriving.n_bytes == 5 << 20)
        assert running.client.post("/invocations", content=bytes(4 << 20)).status_code == 429
        assert running.client.post("/invocations", content=speech_wav).status_code == 200
    wait_until(lambda: arriving.n_bytes == 0)


def test_long_requests_leave_places_to_short_ones(serve, speech_wav):
    running = serve(max_requests=2, short_places=1)
    running.engine.pace.clear()
    long_wav = speech_wav[:-4] + bytes(2 << 20)
    long_wav = long_wav[:40] + (len(long_wav) - 44).to_bytes(4, "little") + long_wav[44:]
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with (
        socket.create_connection(running.address, timeout=30) as first,
        socket.create_connection(running.address, timeout=30) as second,
    ):
        first.sendall(head % len(long_wav) + long_wav)
        wait_until(lambda: running.service.n_admitted == 1)
        refused = running.client.post("/invocations", content=long_wav)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        second.sendall(head % len(speech_wav) + speech_wav)
        wait_until(lambda: running.service.n_admitted == 2)
        running.engine.pace.set()


def test_answers_forbid_guessing_their_type_and_framing_them(shared):
    for response in (shared.client.get("/ping"), shared.client.get("/nothing")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"


def test_json_of_usual_size_is_read(shared, speech_wav):
    import base64

    body = {"audio": base64.b64encode(speech_wav).decode(), "prompt": "क, ख: [ग]"}
    response = httpx.post(f"{shared.client.base_url}/invocations", content=json.dumps(body), headers=JSON)
    assert response.status_code == 200
