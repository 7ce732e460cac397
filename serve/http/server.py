"""Run the application under uvicorn, and stop it as SageMaker requires: refuse, finish, exit 0.

After SIGTERM the port stays open and /ping returns 503 while running requests finish; after `drain_s` they
are broken off with an error event. All of this takes less than 25 s of the 30 s before SIGKILL. A second
signal stops the server at once.

What it lets in, and how much of it, is decided in `serve.http.door`.
"""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import structlog
import uvicorn

from serve.config.settings import Settings
from serve.http.app import create_app
from serve.http.door.connection import ConnectionLimits, with_limits
from serve.http.door.frames import FramedSocket
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


def make_server(settings: Settings, load: Load = load_from_settings) -> DrainingServer:
    """Return a server for these settings that will serve what `load` returns."""
    service = Service(settings, load)
    config = uvicorn.Config(
        create_app(service, on_failure=lambda: server.stop()),
        host=settings.host,
        port=settings.port,
        http=with_limits(_connection_limits(settings)),
        loop="uvloop",
        ws=FramedSocket,
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


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
        head_timeout_s=settings.head_timeout_s,
        write_timeout_s=settings.write_timeout_s,
    )


def run(settings: Settings, load: Load = load_from_settings) -> int:
    """Serve until a signal, or until the model cannot be loaded; return the exit status."""
    server = make_server(settings, load)
    server.run()
    return 0 if server.started and server.service.failure is None else 1
