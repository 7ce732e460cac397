"""Run the application under uvicorn, and stop it the way SageMaker asks: refuse, finish, exit 0.

After SIGTERM the port stays open and /ping says 503 while running requests finish; at `drain_s` they are
broken off with an error event. The whole takes less than 25 s of the 30 s before SIGKILL. A second signal
ends it at once.

HTTP/1.1 is all that is spoken, and the WebSocket: whoever offers something else is answered in it.
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
"""Time for the last bytes to leave after draining."""

MAX_FRAME_BYTES = 1 << 20
"""Of a WebSocket: half a minute of sound, or settings."""

PING_EVERY_S = 20.0
MISSED_PONGS = 5
"""A WebSocket whose ping is not answered for as long as so many take is closed."""

KEEP_ALIVE_S = 75
"""Longer than the idle time-out of the usual load balancers, which otherwise meet closed connections."""

_OFFER = frozenset((b"upgrade", b"http2-settings"))
"""Headers of the offer, and their names in `Connection`."""

_log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that drains its service before it closes its port."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        """Take a configuration whose application serves `service`."""
        super().__init__(config)
        self.service = service
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; the base class would close the port at once."""
        if self._loop is None or self._draining is not None or not self.started:
            self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_draining)

    def stop(self) -> None:
        """Close at once; from any thread."""
        self.should_exit = True

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        await self.service.drain()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and say where: the port may have been chosen by the system."""
        await super().startup(sockets)
        for server in self.servers:
            for bound in server.sockets:
                _log.info("service.listening", address=":".join(map(str, bound.getsockname()[:2])))


class PlainHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, for which only the handshake of a WebSocket is an upgrade.

    Java's HttpClient, Ktor and `curl --http2` send `Upgrade: h2c` with every first request, which a server
    may pass over (RFC 9110, section 7.8). httptools takes the offer for accepted: to it the message ends with
    its headers, and what follows, the body, is another protocol's. So the head is read again without it.
    """

    def data_received(self, data: bytes) -> None:
        """Read what arrived; whatever follows the head of a message with a foreign offer is its body."""
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                if self.parser.get_method() == b"CONNECT":  # names no path, and asks for nothing else
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
        """Begin to answer, unless the head is going to be read again."""
        if not self._is_read_again():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the body, unless the head is going to be read again."""
        if not self._is_read_again():
            super().on_message_complete()

    def _is_read_again(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # A recording that is sent to us is one, whatever else its sender would like to talk about.
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _begin_anew(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    def _head_without_offer(self) -> bytes:
        """Return the head of the message that was read last, as its client would write it otherwise."""
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
    """Return a server that will listen where the settings say, and serve what `load` returns."""
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
        ws_per_message_deflate=False,  # sound does not get smaller by it
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
    """Serve until a signal or until the model cannot be loaded; return the exit status."""
    server = make_server(settings, load)
    server.run()
    return 0 if server.started and server.service.failure is None else 1
