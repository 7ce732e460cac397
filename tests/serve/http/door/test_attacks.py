"""Attacks on a real service process: each is refused soon, memory returns, `/ping` answers throughout.

Slow, because it measures: python -m pytest tests/serve/http/door/test_attacks.py -s prints a line for each.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.slow

EVIL = {"Origin": "https://evil.example"}
MIB = 1 << 20
LIVE = "/invocations-bidirectional-stream"
POST = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"
MOST_MIB = 50


@dataclass
class Service:
    """A running `python -m serve` of the tiny model."""

    client: httpx.Client
    port: int
    resident_bytes: Callable[[], int]
    wav: bytes
    pings_s: list[float] = field(default_factory=list)

    def open(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return connection

    def post(self, **request) -> int:
        return self.client.post("/invocations", **request).status_code

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ping ten times a second while something goes on."""
        over = threading.Event()

        def ping() -> None:
            with httpx.Client(base_url=self.client.base_url, timeout=60) as client:
                while not over.wait(0.1):
                    started = time.monotonic()
                    assert client.get("/ping").status_code == 200
                    self.pings_s.append(time.monotonic() - started)

        watching = threading.Thread(target=ping)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()


@pytest.fixture(scope="module")
def service(start_child, tiny_artifact_dir, speech_wav, tmp_path_factory):
    """The service after its first crowd: what that takes is the honest work's, and stays."""
    cache = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-m", "serve", "--model-dir", str(tiny_artifact_dir)]
    child = start_child(*command, "--port", "0", "--host", "127.0.0.1", "--cache-dir", str(cache))
    with child.client() as client:
        child.wait_for("model.ready")
        running = Service(client, client.base_url.port, child.resident_bytes, speech_wav)
        assert running.post(content=speech_wav) == 200
        crowd(running)
        yield running


def endless(start: bytes, unit: bytes, n_bytes: int) -> Callable[[Service], object]:
    """Send a head that does not end."""

    def attack(service: Service) -> object:
        piece, n_sent = unit * (65_536 // len(unit)), 0
        with service.open(start) as connection, suppress(ConnectionError):
            while n_sent < n_bytes:
                connection.sendall(piece)
                n_sent += len(piece)
        assert n_sent < n_bytes, "all of it was taken"
        return f"closed after {n_sent >> 10} KiB"

    return attack


def body(content: bytes, *statuses: int, **request) -> Callable[[Service], object]:
    """Send a body."""

    def attack(service: Service) -> object:
        status = service.post(content=content, **request)
        assert status in statuses
        return status

    return attack


def leaving(content: bytes) -> Callable[[Service], object]:
    """Send a body from two clients that leave at once; a good one must be answered."""

    def attack(service: Service) -> object:
        for _ in range(2):
            service.open(POST + b"Content-Length: %d\r\n\r\n" % len(content) + content).close()
        return body(service.wav, 200)(service)

    return attack


def crawling(service: Service) -> object:
    """Hold 16 bodies of one byte; a good request must be answered."""
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(service.open(POST + b"Content-Length: 100\r\n\r\nR"))
        return body(service.wav, 200)(service)


def silent(service: Service) -> object:
    """Hold 300 connections that say nothing, or half a head."""
    with ExitStack() as held:
        for number in range(300):
            held.enter_context(service.open(b"GET /pi" if number % 2 else b""))
        return body(service.wav, 200)(service)


def foreign_sockets(service: Service) -> object:
    """Open 16 sockets from a foreign page."""
    for _ in range(16):
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{service.port}{LIVE}", additional_headers=EVIL).__enter__()
    return body(service.wav, 200)(service)


def tiny_frames(service: Service) -> object:
    """Send frames of one byte as fast as possible."""
    with connect(f"ws://127.0.0.1:{service.port}{LIVE}") as stream:
        stream.send(json.dumps({"sample_rate": 16_000}))
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(100_000):
                stream.send(b"a")
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1008
    return 1008


def crowd(service: Service) -> object:
    """Send a minute of sound from 40 clients at once: each gets a status."""
    minute, found = wav_of(np.zeros(60 * 16_000, np.float32)), []

    def send() -> None:
        found.append(
            httpx.post(f"{service.client.base_url}/invocations", content=minute, timeout=60).status_code
        )

    senders = [threading.Thread(target=send) for _ in range(40)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert len(found) == 40
    assert set(found) <= {200, 429}
    return {status: found.count(status) for status in set(found)}


def wav_of(samples: np.ndarray, sample_rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, sample_rate, format="WAV")
    return out.getvalue()


JSON = {"content-type": "application/json"}
ATTACKS: dict[str, Callable[[Service], object]] = {
    "a header of 100 MB": endless(b"GET /ping HTTP/1.1\r\nX: ", b"a", 100 * MIB),
    "200 MB of headers": endless(b"GET /ping HTTP/1.1\r\n", b"a: b\r\n", 200 * MIB),
    "JSON of small lists": body(b'{"audio": "", "x": [' + b"[1]," * 12 * MIB + b"1]}", 400, headers=JSON),
    "JSON 18,000 deep": body(b"[" * 18_000, 400, headers=JSON),
    "JSON that is not UTF-8": body(b'{"audio": "\xff"}', 400, headers=JSON),
    "tiny frames": tiny_frames,
    "ones": body(b"\xff\xfb" + b"\xff" * 99 * MIB, 415, 422),
    "OggS": body(b"OggS" * 24 * MIB, 415, 422),
    "false starts": body(b"\xff\xfb\x90\x00" * 24 * MIB, 415, 422),
    "two clients of ones": leaving(b"\xff\xfb" + b"\xff" * 99 * MIB),
    "two clients of OggS": leaving(b"OggS" * 24 * MIB),
    "16 bodies of one byte": crawling,
    "300 silent connections": silent,
    "16 foreign sockets": foreign_sockets,
    "40 clients": crowd,
    "16 channels at 4,001 Hz": body(wav_of(np.zeros((80_000, 16)), 4_001), 400, params={"channels": "split"}),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_refused_soon_and_leaves_nothing_behind(service, attack, request):
    name = request.node.callspec.id
    before_mib, n_pings = service.resident_bytes() / MIB, len(service.pings_s)
    with service.watched():
        started = time.monotonic()
        outcome = attack(service)
        took_s = time.monotonic() - started
        time.sleep(0.5)
    pings_s = service.pings_s[n_pings:]
    grown_mib = service.resident_bytes() / MIB - before_mib
    print(f"\n| {name} | {outcome} | {took_s:.1f} s | {grown_mib:+.0f} MB | {max(pings_s) * 1000:.0f} ms |")
    assert grown_mib < MOST_MIB
