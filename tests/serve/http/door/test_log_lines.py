"""What a stranger can make a real service process write into its log."""

import json
import socket
import sys
import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serve.http.door.log_lines import LINES_AT_ONCE, LINES_PER_S, LogLines

LIVE = ("/live", "/v1/realtime?intent=transcription", "/v1/listen", "/invocations-bidirectional-stream")
MANY = LINES_AT_ONCE + 100
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
NO_HANDSHAKES = {
    "long header": (UPGRADE % b"/live" + b"X: " + b"a" * 9_000 + b"\r\n\r\n", 431),
    "long path": (UPGRADE % (b"/live?x=" + b"a" * 9_000) + b"\r\n", 414),
    "body": (UPGRADE % b"/live" + b"Content-Length: 5\r\n\r\nhello", 400),
    "chunks": (UPGRADE % b"/live" + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "path that is no ASCII": (UPGRADE % b"/\xff" + b"\r\n", 400),
    "two keys": (UPGRADE % b"/live" + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no method": (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
}
CUT_TEXT = "क".encode()[:2]


@pytest.fixture(scope="module")
def child(start_child, tiny_artifact_dir, tmp_path_factory):
    command = [sys.executable, "-m", "serve", "--model-dir", str(tiny_artifact_dir), "--port", "0"]
    child = start_child(*command, "--host", "127.0.0.1", "--cache-dir", str(tmp_path_factory.mktemp("cache")))
    child.wait_for("model.ready")
    return child


@pytest.fixture(scope="module")
def address(child):
    host, _, port = child.wait_for("service.listening")["address"].rpartition(":")
    return host, int(port)


def close_after(address, path, *texts: bytes) -> tuple[int, str]:
    """Send a text frame as it is, whole or in fragments; return how the service closes."""
    with connect("ws://{}:{}{}".format(*address, path), ping_timeout=None, open_timeout=60) as link:
        if len(texts) == 1:
            link.send(texts[0], text=True)
        else:
            link.send(iter(texts), text=True)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                link.recv(timeout=60)
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("path", LIVE)
@pytest.mark.parametrize("texts", [(b"\xff\xfe",), (CUT_TEXT, b"("), (b"\xc3", b"\x28")])
def test_text_that_is_no_utf8_closes_the_socket_with_1007(address, path, texts):
    assert close_after(address, path, *texts) == (1007, "a text frame is not UTF-8")


def test_a_text_whose_letters_are_cut_by_its_fragments_is_read(address):
    letters = '{"type": "क"}'.encode()
    assert (
        close_after(address, "/live", letters[:11], letters[11:])[0] == 1008
    )  # known as text, not as a type


@pytest.mark.parametrize(("sent", "status"), NO_HANDSHAKES.values(), ids=NO_HANDSHAKES)
def test_what_is_no_request_is_answered_and_closed(address, sent, status):
    with socket.create_connection(address, timeout=60) as link:
        link.sendall(sent)
        received = b""
        while piece := link.recv(4_096):
            received += piece
    assert received.startswith(b"HTTP/1.1 %d " % status)


def test_a_stranger_gets_few_lines_and_no_traceback(child, address):
    n_before, began = len(child.log), time.monotonic()
    for number in range(MANY):
        with connect("ws://{}:{}{}".format(*address, LIVE[number % 3]), open_timeout=60) as link:
            link.send(b"\xff", text=True)
            with pytest.raises(ConnectionClosed):
                while True:
                    link.recv(timeout=60)
    for number in range(MANY):
        sent, _ = list(NO_HANDSHAKES.values())[number % len(NO_HANDSHAKES)]
        with socket.create_connection(address, timeout=60) as link:
            link.sendall(sent)
            assert link.recv(4_096)  # the close may come two seconds later
    for _ in range(MANY):
        with socket.create_connection(address, timeout=60) as link, suppress(ConnectionError):
            link.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
            link.recv(4_096)  # its first answer, or none
    lines, passed_s = child.log[n_before:], time.monotonic() - began
    assert {line["event"] for line in lines} <= {"stream", "request"}
    assert not [line for line in lines if "exception" in line]
    assert len(lines) <= LINES_AT_ONCE + LINES_PER_S * passed_s + 1
    assert len(json.dumps(lines)) < 400 * len(lines)


def test_lines_of_work_are_always_logged_and_others_counted():
    class Log:
        def info(self, event, **facts):
            said.append(facts)

    said: list[dict] = []
    lines = LogLines(per_s=1e-9, at_once=5)
    for _ in range(30):
        lines.info(Log(), "request", is_work=False)
    lines.info(Log(), "request", is_work=True, status=200)
    assert said == [{}] * 5 + [{"status": 200, "n_not_logged": 25}]
