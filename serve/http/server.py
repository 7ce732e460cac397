"""Run the application under uvicorn, and stop it as SageMaker requires: refuse, finish, exit 0.

After SIGTERM the port stays open and /ping returns 503 while running requests finish; after `drain_s` they
are broken off with an error event. All of this takes less than 25 s of the 30 s before SIGKILL. A second
signal stops the server at once.

The server speaks HTTP/1.1 and WebSocket only, and ignores offers to upgrade to anything else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import FrameType

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.config.settings import Settings
from serve.http.app import create_app
from serve.service.service import Load, Service, load_from_settings

CONNECTIONS_CLOSE_S = 2
"""Time for the last bytes to leave after draining, in seconds."""

MAX_FRAME_BYTES = 1 << 20
"""Largest WebSocket frame: half a minute of sound."""

PING_EVERY_S = 20.0
MISSED_PONGS = 5
"""A WebSocket is closed if a ping is unanswered for this many intervals."""

KEEP_ALIVE_S = 75
"""Longer than the idle timeout of common load balancers, which would otherwise use closed connections."""

_OFFER = frozenset((b"upgrade", b"http2-settings"))
"""Headers of an upgrade offer, and their names in `Connection`."""

_log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that drains its service before it closes its port."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        """`config` must hold the application of `service`."""
        super().__init__(config)
        self.service = service
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining at the first signal; the base class would close the port at once."""
        if self._loop is None or self._draining is not None or not self.started:
            self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_draining)

    def stop(self) -> None:
        """Close at once. Thread-safe."""
        self.should_exit = True

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        await self.service.drain()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and log the address: the system may have chosen the port."""
        await super().startup(sockets)
        for server in self.servers:
            for bound in server.sockets:
                _log.info("service.listening", address=":".join(map(str, bound.getsockname()[:2])))


class PlainHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with WebSocket as the only upgrade.

    Java's HttpClient, Ktor and `curl --http2` send `Upgrade: h2c` with every first request, which a server
    may ignore (RFC 9110, section 7.8). httptools takes the offer for accepted: it ends the message after its
    headers and treats the body as another protocol. So the headers are parsed again without the offer.
    """

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; where the headers offer a foreign upgrade, parse them again without it."""
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.parser.get_method() == b"CONNECT":  # has no path, so it cannot be parsed again
                    self.send_400_response("Invalid HTTP request received.")
                    return
                (n_read,) = upgrade.args
                data = self._head_without_offer() + bytes(data)[n_read:]
                self._begin_anew()
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def on_headers_complete(self) -> None:
        """Start the response, unless the headers will be parsed again."""
        if not self._is_read_again():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body, unless the headers will be parsed again."""
        if not self._is_read_again():
            super().on_message_complete()

    def _is_read_again(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # A POST with a recording is served as such, even if its sender offers a WebSocket upgrade.
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _begin_anew(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _head_without_offer(self) -> bytes:
        """Return the current message's head, without the upgrade offer."""
        version = str(self.parser.get_http_version()).encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self._other_headers()]
        return b"\r\n".join((*lines, b"", b""))

    def _other_headers(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self.headers:
            if name == b"connection":
                wishes = [wish.strip() for wish in value.split(b",")]
                value = b", ".join(wish for wish in wishes if wish.lower() not in _OFFER)
            if name not in _OFFER and (value or name != b"connection"):
                yield name, value


def make_server(settings: Settings, load: Load = load_from_settings) -> DrainingServer:
    """Return a server for these settings that will serve what `load` returns."""
    service = Service(settings, load)
    config = uvicorn.Config(
        create_app(service, on_failure=lambda: server.stop()),
        host=settings.host,
        port=settings.port,
        http=PlainHttpProtocol,
        loop="uvloop",
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=PING_EVERY_S,
        ws_ping_timeout=MISSED_PONGS * PING_EVERY_S,
        ws_per_message_deflate=False,  # sound does not compress
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CONNECTIONS_CLOSE_S,
    )
    server = DrainingServer(config, service)
    return server


def run(settings: Settings, load: Load = load_from_settings) -> int:
    """Serve until a signal, or until the model cannot be loaded; return the exit status."""
    server = make_server(settings, load)
    server.run()
    return 0 if server.started and server.service.failure is None else 1
