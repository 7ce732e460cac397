"""Heads that never end, connections that say nothing, chunks of one byte: all are closed with a status."""

import socket

import pytest

from tests.waiting import wait_until

HEAD = b"GET /ping HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
MOST_BYTES = 8 << 20
"""Enough for any limit and for what the system keeps on the way, and far less than an attacker would send."""


def status_of(connection: socket.socket) -> int | None:
    """Return the status of the answer, or None where the connection ends without one."""
    received = b""
    while b"\r\n" not in received:
        piece = connection.recv(4_096)
        if not piece:
            return None
        received += piece
    return int(received.split()[1])


def send_until_refused(address, start: bytes, unit: bytes) -> tuple[int, int | None]:
    """Send `unit` again and again; return the bytes that were taken, and the status."""
    piece = unit * max(1, 65_536 // len(unit))
    with socket.create_connection(address, timeout=30) as connection:
        n_sent = 0
        try:
            connection.sendall(start)
            connection.setblocking(False)
            while n_sent < MOST_BYTES:
                try:
                    n_sent += connection.send(piece)
                except BlockingIOError:
                    connection.setblocking(True)
                    connection.settimeout(30)
                    return n_sent, status_of(connection)
        except (BrokenPipeError, ConnectionResetError):
            return n_sent, None
        connection.setblocking(True)
        connection.settimeout(30)
        return n_sent, status_of(connection)


@pytest.mark.parametrize(
    ("start", "unit", "status"),
    [
        (b"GET /", b"a", 414),
        (HEAD + b"X-Long: ", b"a", 431),
        (HEAD, b"a", 431),
        (HEAD, b"a: b\r\n", 431),
        (HEAD, b"a:\r\n", 431),
        (b"", b"\r\n", 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5;", b"a=b;", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a: b\r\n", 431),
        (b"\x16\x03\x01", b"\xff", 400),
    ],
    ids=(
        *("path", "header", "name", "headers", "empty headers", "line ends"),
        *("chunks", "chunk extension", "trailer", "trailers", "TLS"),
    ),
)
def test_what_never_ends_is_refused(shared, start, unit, status):
    _, refused_with = send_until_refused(shared.address, start, unit)
    assert refused_with in (status, None)  # the answer may be lost where the sender goes on
    assert shared.client.get("/ping").status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (HEAD + b"X: " + b"a" * 16_384 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(100)) + b"\r\n", 431),
        (HEAD + b"X: " + b"a" * 15_000 + b"\r\n\r\n", 200),
        (HEAD + b"".join(b"X-%d: y\r\n" % number for number in range(99)) + b"\r\n", 200),
        (b"GET /ping?" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_a_head_is_taken_up_to_its_limit(shared, head, status):
    with socket.create_connection(shared.address, timeout=30) as connection:
        connection.sendall(head)
        assert status_of(connection) == status


def test_who_says_nothing_or_half_a_head_is_closed(serve):
    running = serve(head_timeout_s=0.3)
    for half, status in ((b"", None), (b"GET /ping HTTP/1.1\r\nHo", 408), (b"\r\n", 408)):
        with socket.create_connection(running.address, timeout=30) as connection:
            connection.sendall(half)
            assert status_of(connection) == status
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(HEAD + b"\r\n" + b"GET /pi")
        assert status_of(connection) == 200
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408")
    assert running.client.get("/ping").status_code == 200


def test_a_new_connection_replaces_the_longest_idle_one(serve):
    running = serve(max_connections=4)
    with socket.create_connection(running.address, timeout=30) as first:
        others = [socket.create_connection(running.address, timeout=30) for _ in range(6)]
        assert running.client.get("/ping").status_code == 200
        with pytest.raises(ConnectionResetError):
            assert first.recv(1) == b""
            raise ConnectionResetError
        for other in others:
            other.close()


def test_where_all_are_at_work_a_further_connection_is_refused(serve, speech_wav):
    running = serve(max_connections=2)
    running.engine.pace.clear()
    sent = POST + b"Content-Length: %d\r\n\r\n" % len(speech_wav) + speech_wav
    working = [socket.create_connection(running.address, timeout=30) for _ in range(2)]
    for connection in working:
        connection.sendall(sent)
    wait_until(lambda: running.service.n_admitted == 2)
    with socket.create_connection(running.address, timeout=30) as connection:
        assert status_of(connection) == 503
    running.engine.pace.set()
    assert [status_of(connection) for connection in working] == [200, 200]
    for connection in working:
        connection.close()


def test_answers_that_nobody_reads_hold_no_place(serve, speech_wav):
    running = serve(write_timeout_s=0.3)
    sent = POST + b"Content-Length: %d\r\n\r\n" % len(speech_wav) + speech_wav
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.setblocking(False)
        for _ in range(400):
            try:
                connection.send(sent)
            except (BlockingIOError, ConnectionError):
                break
        wait_until(lambda: running.service.n_admitted == 0)
    assert running.client.post("/invocations", content=speech_wav).status_code == 200


def test_the_refused_read_why(serve, speech_wav):
    running = serve(max_requests=1, max_body_bytes=9 << 20)
    running.engine.pace.clear()
    with socket.create_connection(running.address, timeout=30) as first:
        first.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(speech_wav) + speech_wav)
        wait_until(lambda: running.service.n_admitted == 1)
        for _ in range(4):
            refused = running.client.post("/invocations", content=bytes(8 << 20))
            assert (refused.status_code, refused.headers["connection"]) == (429, "close")
        too_large = running.client.post("/invocations", content=bytes(10 << 20))
        assert too_large.status_code in (413, 429)
        running.engine.pace.set()
        assert status_of(first) == 200


def test_who_waits_for_leave_to_send_is_refused_without_it(serve, speech_wav):
    running = serve(max_body_bytes=1_000)
    with socket.create_connection(running.address, timeout=30) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n")
        assert status_of(connection) == 413


UPGRADE = (
    b"GET /v1/listen HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_a_socket_begins_only_after_what_came_before_it_is_answered(shared):
    with socket.create_connection(shared.address, timeout=30) as connection:
        connection.sendall(HEAD + b"\r\n" + UPGRADE)
        assert status_of(connection) is None, "nothing of either answer may reach the other"
    with socket.create_connection(shared.address, timeout=30) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert status_of(connection) == 200
        connection.sendall(UPGRADE)
        assert status_of(connection) == 101
