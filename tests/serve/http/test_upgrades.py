"""Clients that offer another protocol: the offer is passed over, and their bodies arrive whole."""

import json
import shutil
import socket
import subprocess
import time

import httpx
import pytest

JAVA = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
OFFERS = {
    "h2c of Java": JAVA,
    "in other letters": (b"connection: keep-alive, upgrade, http2-settings", b"upgrade: H2C", JAVA[2]),
    "two protocols": (b"Connection: Upgrade", b"Upgrade: h2c, websocket"),
    "TLS": (b"Connection: Upgrade", b"Upgrade: TLS/1.2, HTTP/1.1"),
    "a WebSocket that brings a recording": (b"Connection: Upgrade", b"Upgrade: websocket"),
    "two headers": (b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: h2c"),
    "nothing in Connection": (b"Upgrade: h2c",),
    "none": (),
}


def head(*headers: bytes, method: bytes = b"POST", path: bytes = b"/invocations") -> bytes:
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: x", *headers, b"", b""))


def sized(body: bytes, *headers: bytes) -> bytes:
    return head(*headers, b"Content-Type: audio/wav", b"Content-Length: %d" % len(body)) + body


def chunked(body: bytes, *headers: bytes) -> bytes:
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head(*headers, b"Transfer-Encoding: chunked") + sent + b"0\r\n\r\n"


def answer_of(connection: socket.socket) -> tuple[int, dict]:
    """Read one answer, and not a byte more."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1)
        assert piece, received
        received += piece
    lines = received.split(b"\r\n")
    (n_bytes,) = (int(line[16:]) for line in lines if line.lower().startswith(b"content-length: "))
    body = b""
    while len(body) < n_bytes:
        body += connection.recv(n_bytes - len(body))
    return int(lines[0].split()[1]), json.loads(body or b"null")


@pytest.fixture
def connection(shared):
    with socket.create_connection(shared.address, timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@pytest.mark.parametrize("write", [sized, chunked])
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_a_recording_arrives_whole_whatever_else_is_offered(connection, speech_wav, offer, write):
    for _ in range(2):  # on one connection, as clients that keep theirs do
        connection.sendall(write(speech_wav, *offer))
        status, body = answer_of(connection)
        assert (status, body["text"], body["duration_s"]) == (200, "श्रोता", 5.0)


@pytest.mark.parametrize("write", [sized, chunked])
def test_a_recording_arrives_whole_wherever_it_is_cut(shared, speech_wav, write):
    message = write(speech_wav, *JAVA)
    n_head = message.index(b"\r\n\r\n") + 4
    cuts = [(1,), (10,), (n_head - 3, n_head - 1), (n_head,), (n_head + 1, n_head + 9), (len(message) - 1,)]
    for places in [*cuts, tuple(range(20, n_head + 40, 20))]:
        with socket.create_connection(shared.address, timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start, end in zip((0, *places), (*places, len(message)), strict=True):
                connection.sendall(message[start:end])
                time.sleep(0.005)
            status, body = answer_of(connection)
            assert (status, body["text"], body["duration_s"]) == (200, "श्रोता", 5.0)


def test_requests_that_follow_each_other_at_once_are_all_answered(connection, speech_wav):
    ping = head(*JAVA, method=b"GET", path=b"/ping")
    connection.sendall(
        ping + sized(speech_wav, *JAVA) + ping + sized(b"", *JAVA) + chunked(speech_wav, *JAVA)
    )
    answers = [answer_of(connection) for _ in range(5)]
    assert [status for status, _ in answers] == [200, 200, 200, 422, 200]
    assert answers[1][1]["text"] == answers[4][1]["text"] == "श्रोता"


def test_who_waits_to_be_told_to_go_on_is_told_once(connection, speech_wav):
    message = sized(speech_wav, *JAVA, b"Expect: 100-continue")
    n_head = message.index(b"\r\n\r\n") + 4
    connection.sendall(message[:n_head])
    assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(message[n_head:])
    assert answer_of(connection)[0] == 200


def test_a_connection_that_is_to_close_is_closed(connection, speech_wav):
    connection.sendall(sized(speech_wav, b"Connection: close, Upgrade", b"Upgrade: h2c"))
    assert answer_of(connection)[0] == 200
    assert connection.recv(1) == b""


def test_a_tunnel_and_what_is_no_http_are_refused(shared):
    for nonsense in (
        head(method=b"CONNECT", path=b"a:1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01" * 9,
    ):
        with socket.create_connection(shared.address, timeout=60) as connection:
            connection.sendall(nonsense)
            assert connection.recv(4_096).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"http://{shared.address[0]}:{shared.address[1]}/ping").status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("flag", ["--http2", "--http1.1"])
def test_curl_is_served_over_whatever_it_would_rather_speak(shared, speech_wav, tmp_path, flag):
    (tmp_path / "speech.wav").write_bytes(speech_wav)
    url = "http://{}:{}/invocations".format(*shared.address)
    command = ["curl", "--silent", "--fail", flag, "--data-binary", f"@{tmp_path / 'speech.wav'}"]
    done = subprocess.run([*command, "-H", "Content-Type: audio/wav", url], capture_output=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["text"]) == (0, "श्रोता")
    form = ["curl", "--silent", "--fail", flag, "-F", f"file=@{tmp_path / 'speech.wav'}", url]
    assert json.loads(subprocess.run(form, capture_output=True, timeout=60).stdout)["text"] == "श्रोता"
