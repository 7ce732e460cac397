"""Run the application under uvicorn, and stop it the way SageMaker asks: refuse, finish, exit 0.

After SIGTERM the port stays open and /ping says 503 while running requests finish; at `drain_s` they are
broken off with an error event. The whole takes less than 25 s of the 30 s before SIGKILL. A second signal
ends it at once.
"""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import structlog
import uvicorn

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


def make_server(settings: Settings, load: Load = load_from_settings) -> DrainingServer:
    """Return a server that will listen where the settings say, and serve what `load` returns."""
    service = Service(settings, load)
    config = uvicorn.Config(
        create_app(service, on_failure=lambda: server.stop()),
        host=settings.host,
        port=settings.port,
        http="httptools",
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
